// The words that may be written, as a tree of symbols, with look-ahead: the best word that a node can still become.
#pragma once

#include <cstdint>
#include <vector>

#include "lm/word_index.hh"

namespace ds2 {

// A word as the network writes it, and as the language model knows it.
struct SpelledWord {
  std::vector<int> symbols;
  lm::WordIndex word;
  float score;  // ln p(word) without context
};

class Lexicon {
 public:
  static constexpr int kRoot = 0;
  static constexpr int kOutside = -1;  // of the tree: an unknown word

  // `symbols`: size of the network's vocabulary. Of words that are spelled alike the first one counts.
  Lexicon(std::vector<SpelledWord> words, int symbols);

  // The node reached from `node` by a symbol, or kOutside.
  int Child(int node, int symbol) const;

  // The bits of the symbols that lead on from a node (vocabularies of up to 64 symbols).
  uint64_t Symbols(int node) const { return nodes_[node].children; }

  bool IsWord(int node) const { return nodes_[node].is_word; }
  lm::WordIndex Word(int node) const { return nodes_[node].word; }
  float LookAhead(int node) const { return nodes_[node].look_ahead; }  // 0 at the root
  int size() const { return static_cast<int>(nodes_.size()); }

 private:
  struct Node {
    uint64_t children = 0;    // bit s: there is a child for symbol s (vocabularies of up to 64 symbols)
    int first_child = 0;      // children lie side by side, in the order of their symbols
    int child_count = 0;
    int symbol = -1;          // that leads here
    bool is_word = false;
    lm::WordIndex word = 0;
    float look_ahead = 0.0f;  // highest ln p of the words below
  };

  bool small_;  // the vocabulary fits the bits of `children`
  std::vector<Node> nodes_;
};

}  // namespace ds2
