// What the bindings share: settings of a search filled from symbols, words and a language model, all text in UTF-8.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "search.hh"

namespace ds2 {

using SymbolOf = std::unordered_map<std::string, int>;

// Numbers the network's symbols, one character each, from 1 on; 0 is the blank.
SymbolOf NumberSymbols(const std::vector<std::string>& symbols);

// Finds the network's symbol for each character of a word; returns false if one has none.
bool SpellWord(const std::string& word, const SymbolOf& symbol_of, std::vector<int>& symbols);

// Adds a language model to settings that are otherwise complete. words: those allowed, of a word model.
void AddLanguageModel(Setup& setup, std::unique_ptr<LanguageModel> model, const std::vector<std::string>& words,
                      const std::vector<std::string>& symbols);

}  // namespace ds2
