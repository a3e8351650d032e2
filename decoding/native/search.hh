// Prefix beam search for CTC with a language model (Hannun et al. 2014, arXiv:1408.2873), frame by frame.
//
// The score of a prefix is ln of the sum over its alignments so far, plus alpha * ln p_LM + beta for each finished unit
// (a word, or a character where the network writes no spaces), plus the weights of hot words. Inside a word, the best
// word that can still come of it is anticipated, and taken back when the word is finished.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "language_model.hh"
#include "lexicon.hh"
#include "transitions.hh"

namespace ds2 {

struct HotWord {
  std::vector<int> symbols;
  float weight;  // ln, added for each occurrence
};

// What all threads share and nobody changes while they search.
struct Setup {
  int symbols = 0;   // K, blank (0) included
  int space = -1;    // the symbol that parts words; -1: every symbol is a unit
  int beam_size = 100;
  float cutoff_prob = 1.0f;
  int cutoff_top_n = 40;
  float threshold = 15.0f;
  float alpha = 0.5f, beta = 1.0f;
  bool strict = true;             // words, or characters, of the language model only
  float unknown_score = -10.0f;   // ln, times alpha, on top of the language model's score of an unknown word or character
  bool end_of_sentence = false;
  std::unique_ptr<LanguageModel> language_model;  // none: neither alpha nor beta counts
  std::unique_ptr<Lexicon> lexicon;               // of a model of words
  std::vector<WordIndex> units;                   // of a model of characters: each symbol's index
  std::vector<bool> writable;                     // the same: whether the symbol may be written
  float unknown_alone = 0.0f;                     // ln p(unknown word) without context
  std::vector<HotWord> hot_words;
};

// A symbol of a hypothesis, at the frame where the network was surest of it.
struct PlacedSymbol {
  int symbol;
  int frame;
  float log_p;  // ln p of the symbol in that frame
};

struct Candidate {
  std::vector<PlacedSymbol> symbols;
  float score;
};

class Search {
 public:
  explicit Search(const Setup& setup);

  // Forget the utterance.
  void Reset();

  // Take the next frames: log_probs [frames][symbols], natural logarithms.
  void Feed(const float* log_probs, int frames);

  // The best prefixes, best first. `ended`: the last word is finished, and </s> scored if asked for.
  std::vector<Candidate> Best(int count, bool ended);

 private:
  static constexpr float kImpossible = -1e30f;  // ln 0, finite so that differences are never NaN

  // A node of the tree of all prefixes that were ever in the beam. It is its index in the arena.
  struct Prefix {
    int parent = -1;
    int symbol = -1;
    int node = Lexicon::kRoot;          // of the lexicon; kOutside in an unknown word
    int context = Transitions::kBegin;  // of the language model, after the last finished unit
    float extension = 0.0f;             // what the language model and hot words add to the parent's score
    int first_child = -1, next_sibling = -1;
    int place = -1;                     // in the beam, if it is there
    int frame = 0;                      // where the last symbol was surest
    float log_p = kImpossible;          // its ln p there
    uint64_t children = 0;              // bit (symbol mod 64) of each child
  };

  // A prefix of the beam, with ln of the sums over its alignments, all scores included.
  struct Entry {
    int prefix;
    int symbol, node, context;  // of the prefix, as are `children`: at hand, since every frame looks at them
    float ahead;                // what is anticipated at the node
    float blank, label;         // alignments that end in blank, or in the last symbol
    float score;                // both
    float next_blank, next_label;
    uint64_t children;
    bool stays;
  };

  // A prefix that this frame may bring into the beam.
  struct Newcomer {
    int parent;  // a prefix
    int prefix;  // itself, where it was in the beam before; else -1
    int symbol, node;
    float extension, log_p, score;
  };

  struct Scored {
    float log_p;
    int symbol;
  };
  struct Ranked {
    float score;
    int index;  // a place of the beam, or, after these, a newcomer
  };

  void SelectSymbols(const float* log_probs);
  float LeastScore(float blank_log_p) const;
  void Step(const float* log_probs);
  void Stay(Entry& entry, float least);
  void ExtendAll(const Entry& entry, float least);
  void Extend(const Entry& entry, int symbol, float log_p, float least);
  void Arrive(int prefix, float log_p, float reached, float least);
  void Rank();
  void Replace();
  int Grow(const Newcomer& newcomer);
  Entry MakeEntry(int prefix, float blank, float label, float score) const;
  int FindChild(int parent, int symbol) const;
  bool IsAllowed(int node, int symbol, int& next) const;
  float ScoreExtension(const Entry& before, int symbol, int next_node);
  float Ahead(int node) const;
  WordIndex WordAt(int node) const;
  float FinishWord(int node, int context);
  float ScoreWord(int context, WordIndex word);
  float HotWordWeight(int last, int symbol) const;
  std::vector<PlacedSymbol> Spell(int prefix) const;

  const Setup& setup_;
  const bool few_symbols_;          // a set of symbols fits 64 bits
  int time_ = 0;
  Transitions transitions_;         // outlives the utterance
  std::vector<Prefix> prefixes_;    // arena
  std::vector<Entry> beam_;         // in no order
  float best_ = 0.0f, worst_ = 0.0f;  // scores of the beam
  std::vector<Newcomer> newcomers_;
  std::vector<Ranked> ranked_;
  std::vector<int> free_;           // places of the beam
  std::vector<Scored> chosen_;      // symbols of the frame, most probable first
  std::vector<float> offered_;      // [symbols] ln p of the chosen ones, kImpossible of others
  std::vector<uint64_t> first_sets_;  // [n] bits of the first n of them, where there are few symbols
};

}  // namespace ds2
