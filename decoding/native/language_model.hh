// A KenLM model, memory-mapped and shared by all threads. All scores are natural logarithms.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "lm/model.hh"
#include "lm/virtual_interface.hh"

namespace ds2 {

using Context = lm::ngram::State;  // the last words, as many as the model uses
using WordIndex = lm::WordIndex;   // 0 is the unknown word

class LanguageModel {
 public:
  // Opens a binary (mapped, so that pages are read when used) or an ARPA file. Throws std::exception with KenLM's message.
  explicit LanguageModel(const std::string& path) {
    lm::ngram::Config config;
    config.load_method = util::LAZY;
    config.messages = nullptr;
    config.arpa_complain = lm::ngram::Config::NONE;
    model_.reset(lm::ngram::LoadVirtual(path.c_str(), config));
    end_ = model_->BaseVocabulary().EndSentence();
  }

  WordIndex Find(const std::string& word) const { return model_->BaseVocabulary().Index(word); }

  Context Begin() const {
    Context context;
    model_->BeginSentenceWrite(&context);
    return context;
  }

  // ln p(word | context); `next` becomes the context after the word.
  float Score(const Context& context, WordIndex word, Context& next) const {
    return kLn10 * model_->BaseScore(&context, word, &next);
  }

  // ln p(word) without context.
  float ScoreAlone(WordIndex word) const {
    Context none, next;
    model_->NullContextWrite(&none);
    return Score(none, word, next);
  }

  // ln p(</s> | context).
  float ScoreEnd(const Context& context) const {
    Context next;
    return Score(context, end_, next);
  }

 private:
  static constexpr float kLn10 = 2.302585093f;  // KenLM's scores are log10
  std::unique_ptr<lm::base::Model> model_;
  WordIndex end_;
};

}  // namespace ds2
