// Prefix beam search for CTC with a language model (Hannun et al. 2014, arXiv:1408.2873), frame by frame.
//
// The score of a prefix is ln of the sum over its alignments so far, plus alpha * ln p_LM + beta for each complete unit (a
// word, or a character if the vocabulary has no space), plus the weights of hot words. Inside a word, the score of the best
// word that it can become is added (look-ahead), and subtracted again when the word is complete.
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

// Settings and models, shared by all threads, and constant during a search.
struct Setup {
  int symbols = 0;   // K, including the blank (0)
  int space = -1;    // the symbol that separates words; -1: every symbol is a unit
  int beam_size = 100;
  float cutoff_prob = 1.0f;
  int cutoff_top_n = 40;
  float threshold = 15.0f;
  float alpha = 0.5f, beta = 1.0f;
  bool strict = true;             // only words, or characters, of the language model
  float unknown_score = -10.0f;   // ln, times alpha, added to the model's score of an unknown word or character
  bool end_of_sentence = false;
  bool recombine = false;         // of prefixes that no later frame can tell apart, keep the best one: only for one hypothesis
  std::unique_ptr<LanguageModel> language_model;  // null: alpha and beta are not used
  std::unique_ptr<Lexicon> lexicon;               // for a word model
  std::vector<WordIndex> units;                   // for a character model: the index of each symbol
  std::vector<bool> writable;                     // for a character model: whether the symbol is allowed
  float unknown_alone = 0.0f;                     // ln p(unknown word) without context
  std::vector<HotWord> hot_words;
};

// A symbol of a hypothesis, and the frame of its greatest probability.
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

  // Starts a new utterance.
  void Reset();

  // Processes the next frames: log_probs [frames][symbols], natural logarithms.
  void Feed(const float* log_probs, int frames);

  // Returns the best prefixes, best first. ended: complete the last word, and score </s> if the settings require it.
  std::vector<Candidate> Best(int count, bool ended);

  // Drops prefixes that are `margin` below the best one and differ from it in symbols older than `age` frames.
  void Settle(float margin, int age);

  // Returns the longest prefix that all prefixes of the beam share: no further frame changes it.
  std::vector<PlacedSymbol> Settled() const;

 private:
  static constexpr float kImpossible = -1e30f;  // ln 0, finite so that differences are never NaN

  // A node of the tree of all prefixes that were ever in the beam; referred to by its index in the arena.
  struct Prefix {
    int parent = -1;
    int symbol = -1;
    int node = Lexicon::kRoot;          // of the lexicon; kOutside in an unknown word
    int context = Transitions::kBegin;  // of the language model, after the last complete unit
    float extension = 0.0f;             // added to the parent's score by language model and hot words
    int first_child = -1, next_sibling = -1;
    int place = -1;                     // index in the beam, -1 if it is not in it
    int frame = 0;                      // of the greatest probability of the last symbol
    float log_p = kImpossible;          // ln p of the last symbol in that frame
    uint64_t children = 0;              // bit (symbol mod 64) of each child
  };

  // A prefix in the beam, with ln of the sums over its alignments, including all scores.
  struct Entry {
    int prefix;
    int symbol, node, context;  // copies from the prefix, like `children`, as every frame reads them
    float ahead;                // look-ahead score of the node
    float blank, label;         // of alignments that end in a blank, or in the last symbol
    float score;                // of both
    float next_blank, next_label;
    uint64_t children;
    bool stays;
  };

  // A prefix that may enter the beam in this frame.
  struct Newcomer {
    int parent;  // a prefix
    int prefix;  // its own index if it was in the beam before, else -1
    int symbol, node;
    float extension, log_p, score;
  };

  struct Scored {
    float log_p;
    int symbol;
  };
  struct Ranked {
    float score;
    int index;  // in the beam, or behind its end, of a newcomer
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
  void Recombine();
  void Remove(size_t place);
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
  const bool few_symbols_;          // a set of symbols fits into 64 bits
  int time_ = 0;
  Transitions transitions_;         // kept between utterances
  std::vector<Prefix> prefixes_;    // arena
  std::vector<Entry> beam_;         // in no order
  float best_ = 0.0f, worst_ = 0.0f;  // scores in the beam
  std::vector<Newcomer> newcomers_;
  std::vector<Ranked> ranked_;
  std::vector<int> free_;           // free indices of the beam
  std::vector<int> states_;         // [n] open addressing: index in the beam of the best prefix of each state, -1 if free
  std::vector<Scored> chosen_;      // symbols considered in this frame, most probable first
  std::vector<float> offered_;      // [symbols] ln p of the chosen ones, kImpossible for others
  std::vector<uint64_t> first_sets_;  // [n] the first n chosen symbols as bits, if there are few symbols
};

}  // namespace ds2
