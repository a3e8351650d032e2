// Python bindings of the search: decoders, which share a model among threads, and streams.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "search.hh"
#include "setup.hh"

namespace py = pybind11;

namespace ds2 {
namespace {

using Matrix = py::array_t<float, py::array::c_style | py::array::forcecast>;
// Symbols, their frames, their ln p, and the score of the hypothesis.
using RawHypothesis = std::tuple<std::vector<int>, std::vector<int>, std::vector<float>, float>;

std::vector<RawHypothesis> ToRaw(const std::vector<Candidate>& candidates) {
  std::vector<RawHypothesis> raw;
  for (const Candidate& candidate : candidates) {
    auto& [symbols, frames, log_ps, score] = raw.emplace_back();
    score = candidate.score;
    for (const PlacedSymbol& placed : candidate.symbols) {
      symbols.push_back(placed.symbol);
      frames.push_back(placed.frame);
      log_ps.push_back(placed.log_p);
    }
  }
  return raw;
}

class Decoder {
 public:
  // symbols: the network's, one character each, without the blank. space: the one that separates words, -1 for none.
  // words: of a word model. hot_words: text and weight. All text is UTF-8.
  Decoder(const std::vector<std::string>& symbols, int space, const std::string& lm, const std::vector<std::string>& words,
          const std::vector<std::pair<std::string, float>>& hot_words, const py::dict& options)
      : setup_(std::make_shared<Setup>()) {
    setup_->symbols = static_cast<int>(symbols.size()) + 1;
    setup_->space = space;
    setup_->beam_size = options["beam_size"].cast<int>();
    setup_->cutoff_prob = options["cutoff_prob"].cast<float>();
    setup_->cutoff_top_n = options["cutoff_top_n"].cast<int>();
    setup_->threshold = options["threshold"].cast<float>();
    setup_->strict = options["strict"].cast<bool>();
    setup_->unknown_score = options["unknown_score"].cast<float>();
    setup_->end_of_sentence = options["end_of_sentence"].cast<bool>();
    setup_->recombine = options["recombine"].cast<bool>();
    Rescale(options["alpha"].cast<float>(), options["beta"].cast<float>());
    const SymbolOf symbol_of = NumberSymbols(symbols);
    for (const auto& [word, weight] : hot_words) {
      HotWord hot{{}, weight};
      if (!SpellWord(word, symbol_of, hot.symbols)) throw std::invalid_argument("a hot word cannot be spelled");
      setup_->hot_words.push_back(hot);
    }
    if (lm.empty()) return;
    py::gil_scoped_release release;
    AddLanguageModel(*setup_, std::make_unique<LanguageModel>(lm), words, symbols);
  }

  void Rescale(float alpha, float beta) {
    setup_->alpha = alpha;
    setup_->beta = beta;
  }

  // Decodes utterances [frames][symbols] in several threads, without the interpreter lock.
  std::vector<std::vector<RawHypothesis>> Decode(const std::vector<Matrix>& utterances, int nbest, int threads) {
    struct View {
      const float* data;
      int frames;
    };
    std::vector<View> views;
    for (const Matrix& matrix : utterances) {
      if (matrix.ndim() != 2 || matrix.shape(1) != setup_->symbols) throw std::invalid_argument("log_probs must be [U, K]");
      views.push_back({matrix.data(), static_cast<int>(matrix.shape(0))});
    }
    std::vector<std::vector<Candidate>> found(views.size());
    {
      py::gil_scoped_release release;
      std::atomic<size_t> next{0};
      std::exception_ptr failure;
      std::mutex failure_lock;
      const auto work = [&] {
        try {
          Search search(*setup_);
          for (size_t i; (i = next++) < views.size();) {
            search.Reset();
            search.Feed(views[i].data, views[i].frames);
            found[i] = search.Best(nbest, true);
          }
        } catch (...) {
          const std::lock_guard<std::mutex> guard(failure_lock);
          failure = std::current_exception();
        }
      };
      const int helpers = std::min<int>(threads, static_cast<int>(views.size())) - 1;
      std::vector<std::thread> pool;
      pool.reserve(std::max(helpers, 0));  // before threads run, as it may throw
      for (int i = 0; i < helpers; ++i) {
        try {
          pool.emplace_back(work);
        } catch (const std::system_error&) {
          break;  // no more threads are available; the running ones share the work
        }
      }
      work();
      for (std::thread& thread : pool) thread.join();
      if (failure) std::rethrow_exception(failure);
    }
    std::vector<std::vector<RawHypothesis>> raw;
    for (const auto& candidates : found) raw.push_back(ToRaw(candidates));
    return raw;
  }

  std::shared_ptr<Setup> setup() const { return setup_; }

 private:
  std::shared_ptr<Setup> setup_;
};

// An utterance whose frames arrive in pieces.
class Stream {
 public:
  explicit Stream(const Decoder& decoder) : setup_(decoder.setup()), search_(*setup_) {}

  void Feed(const Matrix& log_probs) {
    if (log_probs.ndim() != 2 || log_probs.shape(1) != setup_->symbols)
      throw std::invalid_argument("log_probs must be [n, K]");
    const float* data = log_probs.data();
    const int frames = static_cast<int>(log_probs.shape(0));
    py::gil_scoped_release release;
    search_.Feed(data, frames);
  }

  std::vector<RawHypothesis> Best(int count, bool ended) { return ToRaw(search_.Best(count, ended)); }

  void Settle(float margin, int age) { search_.Settle(margin, age); }

  // Symbols of the prefix that no further frame changes.
  std::vector<int> Settled() const {
    std::vector<int> symbols;
    for (const PlacedSymbol& placed : search_.Settled()) symbols.push_back(placed.symbol);
    return symbols;
  }

 private:
  std::shared_ptr<Setup> setup_;
  Search search_;
};

}  // namespace
}  // namespace ds2

PYBIND11_MODULE(_native, module) {
  using namespace ds2;
  module.attr("max_order") = KENLM_MAX_ORDER;
  py::class_<Decoder>(module, "Decoder")
      .def(py::init<const std::vector<std::string>&, int, const std::string&, const std::vector<std::string>&,
                    const std::vector<std::pair<std::string, float>>&, const py::dict&>())
      .def("rescale", &Decoder::Rescale)
      .def("decode", &Decoder::Decode, py::arg("utterances"), py::arg("nbest"), py::arg("threads"));
  py::class_<Stream>(module, "Stream")
      .def(py::init<const Decoder&>())
      .def("feed", &Stream::Feed)
      .def("settle", &Stream::Settle, py::arg("margin"), py::arg("age"))
      .def("settled", &Stream::Settled)
      .def("best", &Stream::Best, py::arg("count"), py::arg("ended"));
}
