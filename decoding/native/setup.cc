#include "setup.hh"

#include <utility>

namespace ds2 {

SymbolOf NumberSymbols(const std::vector<std::string>& symbols) {
  SymbolOf symbol_of;
  for (size_t i = 0; i < symbols.size(); ++i) symbol_of[symbols[i]] = static_cast<int>(i) + 1;
  return symbol_of;
}

bool SpellWord(const std::string& word, const SymbolOf& symbol_of, std::vector<int>& symbols) {
  symbols.clear();
  for (size_t begin = 0, end; begin < word.size(); begin = end) {
    for (end = begin + 1; end < word.size() && (word[end] & 0xC0) == 0x80;) ++end;
    const auto found = symbol_of.find(word.substr(begin, end - begin));
    if (found == symbol_of.end()) return false;
    symbols.push_back(found->second);
  }
  return !symbols.empty();
}

void AddLanguageModel(Setup& setup, std::unique_ptr<LanguageModel> model, const std::vector<std::string>& words,
                      const std::vector<std::string>& symbols) {
  setup.language_model = std::move(model);
  setup.unknown_alone = setup.language_model->ScoreAlone(0);
  if (setup.space < 0) {
    setup.units.push_back(0);  // blank
    for (const std::string& symbol : symbols) setup.units.push_back(setup.language_model->Find(symbol));
    for (const WordIndex unit : setup.units) setup.writable.push_back(!setup.strict || unit != 0);
    for (const HotWord& hot : setup.hot_words)
      for (const int symbol : hot.symbols) setup.writable[symbol] = true;
    return;
  }
  const SymbolOf symbol_of = NumberSymbols(symbols);
  std::vector<SpelledWord> spelled;
  for (const std::string& word : words) {
    SpelledWord entry{{}, setup.language_model->Find(word), 0.0f};
    if (!SpellWord(word, symbol_of, entry.symbols)) continue;
    entry.score = setup.language_model->ScoreAlone(entry.word) + (entry.word == 0 ? setup.unknown_score : 0.0f);
    spelled.push_back(std::move(entry));
  }
  setup.lexicon = std::make_unique<Lexicon>(std::move(spelled), setup.symbols);
}

}  // namespace ds2
