// What a language model says after a context. Hypotheses that differ only before the model's reach share a context, and
// ask the same in frame after frame; answers are kept.
#pragma once

#include <cstdint>
#include <vector>

#include "language_model.hh"

namespace ds2 {

class Transitions {
 public:
  static constexpr int kBegin = 0;  // the context of an utterance's start; contexts are numbered

  explicit Transitions(const LanguageModel* model) : model_(model) { Forget(); }

  // Forget contexts where there are many; their numbers are void then. For the start of an utterance.
  void Trim() {
    if (contexts_.size() > kManyContexts) Forget();
  }

  const Context& At(int context) const { return contexts_[context]; }

  // ln p(word | context).
  float Score(int context, WordIndex word) { return Find(context, word).score; }

  // The context after a word.
  int Next(int context, WordIndex word) {
    Answer& answer = Find(context, word);
    if (answer.next == kUnasked) {
      Context after;
      model_->Score(contexts_[context], word, after);
      answer.next = Number(after);
    }
    return answer.next;
  }

 private:
  static constexpr int kUnasked = -1;
  static constexpr size_t kManyContexts = 1 << 17;
  static constexpr size_t kAnswers = 1 << 15;  // half a megabyte: what stays in the cache is worth asking
  static constexpr size_t kFirstSlots = 1 << 10;

  struct Answer {
    uint64_t key = 0;
    float score = 0.0f;
    int next = kUnasked;
  };

  static size_t Mix(uint64_t key) { return (key * 0x9E3779B97F4A7C15ull) >> 32; }

  // A later question takes the place of an earlier one that falls on it.
  Answer& Find(int context, WordIndex word) {
    const uint64_t key = (static_cast<uint64_t>(context) + 1) << 32 | word;
    Answer& answer = answers_[Mix(key) & (kAnswers - 1)];
    if (answer.key != key) {
      Context after;
      answer = {key, model_->Score(contexts_[context], word, after), kUnasked};
    }
    return answer;
  }

  void Forget() {
    if (!model_) return;
    contexts_.clear();
    slots_.assign(kFirstSlots, kUnasked);
    answers_.assign(kAnswers, Answer());
    Number(model_->Begin());
  }

  // The number of a context: equal ones, by their words, have the same.
  int Number(const Context& context) {
    if (2 * contexts_.size() >= slots_.size()) {
      slots_.assign(2 * slots_.size(), kUnasked);
      for (size_t number = 0; number < contexts_.size(); ++number) *Slot(contexts_[number]) = static_cast<int>(number);
    }
    int* slot = Slot(context);
    if (*slot == kUnasked) {
      *slot = static_cast<int>(contexts_.size());
      contexts_.push_back(context);
    }
    return *slot;
  }

  // The slot that holds a context's number, or is free for it.
  int* Slot(const Context& context) {
    size_t slot = Mix(lm::ngram::hash_value(context)) & (slots_.size() - 1);
    while (slots_[slot] != kUnasked && !(contexts_[slots_[slot]] == context)) slot = (slot + 1) & (slots_.size() - 1);
    return &slots_[slot];
  }

  const LanguageModel* model_;  // null: nothing may be asked
  std::vector<Context> contexts_;
  std::vector<int> slots_;      // open addressing
  std::vector<Answer> answers_;
};

}  // namespace ds2
