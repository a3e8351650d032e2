// Bindings of the search for a browser: a class `Decoder` of a module of WebAssembly.
#include <emscripten/bind.h>
#include <emscripten/val.h>

#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "search.hh"
#include "setup.hh"

namespace ds2 {
namespace {

using emscripten::val;

class Decoder {
 public:
  // symbols: the network's, one character each, without the blank. lm: a file of the module's file system. words: those that
  // the model knows. options: as decode.json. Throws an Error of JavaScript with KenLM's message.
  Decoder(const val& symbols, const std::string& lm, const val& words, const val& options) {
    try {
      Open(symbols, lm, words, options);
    } catch (const std::exception& error) {
      val::global("Error").new_(std::string(error.what())).throw_();
    }
  }

  // Decodes log_probs, a Float32Array [frames][symbols]; returns the best text as [{symbol, frame, log_p}, ...].
  val Decode(const val& log_probs) {
    const std::vector<float> values = emscripten::convertJSArrayToNumberVector<float>(log_probs);
    search_->Reset();
    search_->Feed(values.data(), static_cast<int>(values.size()) / setup_.symbols);
    val result = val::array();
    for (const Candidate& best : search_->Best(1, true))
      for (const PlacedSymbol& placed : best.symbols) {
        val symbol = val::object();
        symbol.set("symbol", placed.symbol);
        symbol.set("frame", placed.frame);
        symbol.set("log_p", placed.log_p);
        result.call<void>("push", symbol);
      }
    return result;
  }

 private:
  void Open(const val& symbols, const std::string& lm, const val& words, const val& options) {
    const auto all = emscripten::vecFromJSArray<std::string>(symbols);
    setup_.symbols = static_cast<int>(all.size()) + 1;
    for (size_t i = 0; i < all.size(); ++i)
      if (all[i] == " ") setup_.space = static_cast<int>(i) + 1;
    setup_.beam_size = options["beam_size"].as<int>();
    setup_.cutoff_prob = options["cutoff_prob"].as<float>();
    setup_.cutoff_top_n = options["cutoff_top_n"].as<int>();
    setup_.threshold = options["threshold"].as<float>();
    setup_.alpha = options["alpha"].as<float>();
    setup_.beta = options["beta"].as<float>();
    setup_.strict = options["lexicon"].as<std::string>() == "strict";
    setup_.unknown_score = options["unknown_score"].as<float>();
    setup_.end_of_sentence = options["end_of_sentence"].as<bool>();
    AddLanguageModel(setup_, std::make_unique<LanguageModel>(lm), emscripten::vecFromJSArray<std::string>(words), all);
    search_ = std::make_unique<Search>(setup_);
  }

  Setup setup_;
  std::unique_ptr<Search> search_;
};

}  // namespace
}  // namespace ds2

EMSCRIPTEN_BINDINGS(ds2) {
  emscripten::class_<ds2::Decoder>("Decoder")
      .constructor<const emscripten::val&, const std::string&, const emscripten::val&, const emscripten::val&>()
      .function("decode", &ds2::Decoder::Decode);
}
