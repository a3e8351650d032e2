// The allowed words as a tree of symbols, with look-ahead: the best word below each node.
#pragma once

#include <cstdint>
#include <vector>

#include "lm/word_index.hh"

namespace ds2 {

// A word: its symbols in the network, its index in the language model.
struct SpelledWord {
  std::vector<int> symbols;
  lm::WordIndex word;
  float score;  // ln p(word) without context
};

class Lexicon {
 public:
  static constexpr int kRoot = 0;
  static constexpr int kOutside = -1;  // of the tree: an unknown word

  // symbols: size of the network's vocabulary. Of words with the same spelling, the first is used.
  Lexicon(std::vector<SpelledWord> words, int symbols);

  // Returns the child of a node for a symbol, or kOutside.
  int Child(int node, int symbol) const;

  // Returns a node's set of child symbols as bits (for vocabularies of up to 64 symbols).
  uint64_t Symbols(int node) const { return nodes_[node].children; }

  bool IsWord(int node) const { return nodes_[node].is_word; }
  lm::WordIndex Word(int node) const { return nodes_[node].word; }
  float LookAhead(int node) const { return nodes_[node].look_ahead; }  // 0 at the root
  int size() const { return static_cast<int>(nodes_.size()); }

 private:
  struct Node {
    uint64_t children = 0;    // bit s: there is a child for symbol s (for vocabularies of up to 64 symbols)
    int first_child = 0;      // children are adjacent, in the order of their symbols
    int child_count = 0;
    int symbol = -1;          // of this node
    bool is_word = false;
    lm::WordIndex word = 0;
    float look_ahead = 0.0f;  // greatest ln p of the words at and below this node
  };

  bool small_;  // whether the vocabulary fits into the bits of `children`
  std::vector<Node> nodes_;
};

}  // namespace ds2
