// Scores of a language model, cached. Hypotheses whose last words agree, as far as the model uses them, share a context,
// and need the same scores in frame after frame.
#pragma once

#include <cstdint>
#include <vector>

#include "language_model.hh"

namespace ds2 {

class Transitions {
 public:
  static constexpr int kBegin = 0;  // number of the context at the start of an utterance

  explicit Transitions(const LanguageModel* model) : model_(model) { Clear(); }

  // Discards the contexts if there are many, which invalidates their numbers: call it only between utterances.
  void Trim() {
    if (contexts_.size() > kManyContexts) Clear();
  }

  const Context& At(int context) const { return contexts_[context]; }

  // ln p(word | context).
  float Score(int context, WordIndex word) { return Find(context, word).score; }

  // Returns the context after a word.
  int Next(int context, WordIndex word) {
    Answer& answer = Find(context, word);
    if (answer.next == kUnknown) {
      Context after;
      model_->Score(contexts_[context], word, after);
      answer.next = Number(after);
    }
    return answer.next;
  }

 private:
  static constexpr int kUnknown = -1;
  static constexpr size_t kManyContexts = 1 << 17;
  static constexpr size_t kAnswers = 1 << 15;  // half a megabyte, which fits into the CPU's cache
  static constexpr size_t kFirstSlots = 1 << 10;

  struct Answer {
    uint64_t key = 0;
    float score = 0.0f;
    int next = kUnknown;
  };

  static size_t Mix(uint64_t key) { return (key * 0x9E3779B97F4A7C15ull) >> 32; }

  // On a collision, the later answer replaces the earlier one.
  Answer& Find(int context, WordIndex word) {
    const uint64_t key = (static_cast<uint64_t>(context) + 1) << 32 | word;
    Answer& answer = answers_[Mix(key) & (kAnswers - 1)];
    if (answer.key != key) {
      Context after;
      answer = {key, model_->Score(contexts_[context], word, after), kUnknown};
    }
    return answer;
  }

  void Clear() {
    if (!model_) return;
    contexts_.clear();
    slots_.assign(kFirstSlots, kUnknown);
    answers_.assign(kAnswers, Answer());
    Number(model_->Begin());
  }

  // Returns the number of a context; equal contexts have the same number.
  int Number(const Context& context) {
    if (2 * contexts_.size() >= slots_.size()) {
      slots_.assign(2 * slots_.size(), kUnknown);
      for (size_t number = 0; number < contexts_.size(); ++number) *Slot(contexts_[number]) = static_cast<int>(number);
    }
    int* slot = Slot(context);
    if (*slot == kUnknown) {
      *slot = static_cast<int>(contexts_.size());
      contexts_.push_back(context);
    }
    return *slot;
  }

  // Returns the slot with a context's number, or a free one for it.
  int* Slot(const Context& context) {
    size_t slot = Mix(lm::ngram::hash_value(context)) & (slots_.size() - 1);
    while (slots_[slot] != kUnknown && !(contexts_[slots_[slot]] == context)) slot = (slot + 1) & (slots_.size() - 1);
    return &slots_[slot];
  }

  const LanguageModel* model_;  // null: Score and Next must not be called
  std::vector<Context> contexts_;
  std::vector<int> slots_;      // open addressing
  std::vector<Answer> answers_;
};

}  // namespace ds2
