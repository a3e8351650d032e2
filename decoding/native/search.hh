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
  bool strict = true;             // words of the lexicon only
  float unknown_score = -10.0f;   // ln, times alpha, on top of the language model's score of an unknown word
  bool end_of_sentence = false;
  std::unique_ptr<LanguageModel> language_model;  // none: neither alpha nor beta counts
  std::unique_ptr<Lexicon> lexicon;               // of a model of words
  std::vector<WordIndex> units;                   // of a model of characters: each symbol's index
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
  explicit Search(const Setup& setup) : setup_(setup) { Reset(); }

  // Forget the utterance.
  void Reset();

  // Take the next frames: log_probs [frames][symbols], natural logarithms.
  void Feed(const float* log_probs, int frames);

  // The best prefixes, best first. `ended`: the last word is finished, and </s> scored if asked for.
  std::vector<Candidate> Best(int count, bool ended) const;

 private:
  static constexpr float kImpossible = -1e30f;  // ln 0, finite so that differences are never NaN

  struct Prefix {
    int parent = -1;
    int symbol = -1;
    int node = Lexicon::kRoot;   // of the lexicon; kOutside in an unknown word
    float extension = 0.0f;      // what the language model and hot words add to the parent's score
    float blank = kImpossible;   // ln of the sum over alignments that end in blank, all scores included,
    float label = kImpossible;   // or in the last symbol
    float score = kImpossible;   // of both
    float next_blank = kImpossible, next_label = kImpossible;
    int stamp = -1;              // the frame that next_blank and next_label are of
    int frame = 0;               // where the last symbol was surest
    float log_p = kImpossible;   // its ln p there
  };
  struct Scored {
    float log_p;
    int symbol;
  };

  void SelectSymbols(const float* log_probs);
  float LeastScore(float blank_log_p) const;
  void Step(const float* log_probs);
  void Touch(int prefix);
  void Prune();
  int Extend(int parent, int symbol);
  void ScoreExtension(int parent, Prefix& child, Context& context) const;
  float Ahead(int node) const;
  float FinishWord(const Prefix& prefix, const Context& before, Context& after) const;
  float HotWordWeight(int last) const;
  bool IsAllowed(int parent, int symbol, int& node) const;
  std::vector<PlacedSymbol> Spell(int prefix) const;
  void Rehash(size_t slots);

  const Setup& setup_;
  int time_ = 0;
  std::vector<Prefix> prefixes_;   // arena: a prefix is its index
  std::vector<Context> contexts_;  // of the language model, one a prefix
  std::vector<uint64_t> keys_;     // open addressing: (parent, symbol) -> child; 0 is empty
  std::vector<int> children_;
  std::vector<int> active_, next_;  // prefixes of the beam, best first
  std::vector<Scored> chosen_;      // symbols of the frame, most probable first
};

}  // namespace ds2
