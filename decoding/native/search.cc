#include "search.hh"

#include <algorithm>
#include <cmath>

namespace ds2 {
namespace {

constexpr float kNegligible = 25.0f;   // symbols so far below a frame's best are never looked at
constexpr size_t kFirstSlots = 1 << 14;
constexpr int kSymbolBits = 20;  // of a key

// ln(exp a + exp b).
inline float LogAdd(float a, float b) {
  if (a < b) std::swap(a, b);
  const float difference = b - a;
  return difference < -16.0f ? a : a + std::log1p(std::exp(difference));
}

inline size_t Slot(uint64_t key, size_t mask) { return ((key * 0x9E3779B97F4A7C15ull) >> 20) & mask; }

}  // namespace

void Search::Reset() {
  time_ = 0;
  prefixes_.clear();
  contexts_.clear();
  if (keys_.empty()) Rehash(kFirstSlots);
  std::fill(keys_.begin(), keys_.end(), 0);
  Prefix root;
  root.blank = root.score = 0.0f;  // ln 1: nothing was said yet
  prefixes_.push_back(root);
  contexts_.emplace_back();
  if (setup_.language_model) contexts_[0] = setup_.language_model->Begin();
  active_.assign(1, 0);
}

void Search::Feed(const float* log_probs, int frames) {
  for (int frame = 0; frame < frames; ++frame, ++time_) Step(log_probs + static_cast<size_t>(frame) * setup_.symbols);
}

// Choose the symbols of a frame: the most probable cutoff_top_n, up to a sum of cutoff_prob.
void Search::SelectSymbols(const float* log_probs) {
  const auto more = [](const Scored& a, const Scored& b) { return a.log_p > b.log_p; };
  const float least = *std::max_element(log_probs, log_probs + setup_.symbols) - kNegligible;
  chosen_.clear();
  for (int symbol = 0; symbol < setup_.symbols; ++symbol)
    if (log_probs[symbol] >= least) chosen_.push_back({log_probs[symbol], symbol});
  const size_t count = std::min<size_t>(chosen_.size(), setup_.cutoff_top_n);
  std::partial_sort(chosen_.begin(), chosen_.begin() + count, chosen_.end(), more);
  chosen_.resize(count);
  if (setup_.cutoff_prob < 1.0f) {
    float sum = 0.0f;
    size_t kept = 0;
    while (kept < chosen_.size() && sum < setup_.cutoff_prob) sum += std::exp(chosen_[kept++].log_p);
    chosen_.resize(kept);
  }
}

// What a prefix must reach in this frame to have a chance of staying in the beam.
float Search::LeastScore(float blank_log_p) const {
  const float best = prefixes_[active_.front()].score + chosen_.front().log_p;
  float least = best - setup_.threshold;
  // With a language model, as in the original, the worst prefix of a full beam, going on as it is, bars what is below.
  if (setup_.language_model && static_cast<int>(active_.size()) >= setup_.beam_size)
    least = std::max(least, prefixes_[active_.back()].score + blank_log_p - std::max(0.0f, setup_.beta));
  return least;
}

void Search::Step(const float* log_probs) {
  SelectSymbols(log_probs);
  const float least = LeastScore(log_probs[0]);
  next_.clear();
  for (const Scored& chosen : chosen_) {
    const float log_p = chosen.log_p;
    for (const int index : active_) {
      const float score = prefixes_[index].score;
      if (score + log_p < least) break;  // the following ones score even less
      if (chosen.symbol == 0) {
        Touch(index);
        prefixes_[index].next_blank = LogAdd(prefixes_[index].next_blank, score + log_p);
        continue;
      }
      float from = score;
      if (chosen.symbol == prefixes_[index].symbol) {  // the same symbol goes on, or a new one follows a blank
        Touch(index);
        Prefix& prefix = prefixes_[index];
        prefix.next_label = LogAdd(prefix.next_label, prefix.label + log_p);
        if (log_p > prefix.log_p) prefix.frame = time_, prefix.log_p = log_p;
        from = prefix.blank;
        if (from + log_p < least) continue;
      }
      const int child = Extend(index, chosen.symbol);
      if (child < 0) continue;
      const float reached = from + log_p + prefixes_[child].extension;
      if (reached < least) continue;
      Touch(child);
      Prefix& prefix = prefixes_[child];
      if (prefix.score <= kImpossible || log_p > prefix.log_p) prefix.frame = time_, prefix.log_p = log_p;
      prefix.next_label = LogAdd(prefix.next_label, reached);
    }
  }
  Prune();
}

// Begin to collect what reaches a prefix in this frame.
void Search::Touch(int index) {
  Prefix& prefix = prefixes_[index];
  if (prefix.stamp == time_) return;
  prefix.stamp = time_;
  prefix.next_blank = prefix.next_label = kImpossible;
  next_.push_back(index);
}

// Make the collected scores those of the prefixes, and keep the best beam_size of them.
void Search::Prune() {
  const auto better = [this](int a, int b) { return prefixes_[a].score > prefixes_[b].score; };
  const auto leave = [this](int index) {
    prefixes_[index].blank = prefixes_[index].label = prefixes_[index].score = kImpossible;
  };
  std::for_each(active_.begin(), active_.end(), leave);
  for (const int index : next_) {
    Prefix& prefix = prefixes_[index];
    prefix.blank = prefix.next_blank;
    prefix.label = prefix.next_label;
    prefix.score = LogAdd(prefix.blank, prefix.label);
  }
  if (static_cast<int>(next_.size()) > setup_.beam_size) {
    std::nth_element(next_.begin(), next_.begin() + setup_.beam_size, next_.end(), better);
    std::for_each(next_.begin() + setup_.beam_size, next_.end(), leave);
    next_.resize(setup_.beam_size);
  }
  std::sort(next_.begin(), next_.end(), better);
  active_.swap(next_);
}

// The prefix that a symbol makes of another one, or -1 where it may not follow.
int Search::Extend(int parent, int symbol) {
  const uint64_t key = (static_cast<uint64_t>(parent + 1) << kSymbolBits) | static_cast<uint64_t>(symbol);
  size_t slot = Slot(key, keys_.size() - 1);
  for (; keys_[slot]; slot = (slot + 1) & (keys_.size() - 1))
    if (keys_[slot] == key) return children_[slot];
  Prefix child;
  child.parent = parent;
  child.symbol = symbol;
  child.frame = time_;
  if (!IsAllowed(parent, symbol, child.node)) return -1;
  if (2 * (prefixes_.size() + 1) > keys_.size()) {
    Rehash(2 * keys_.size());
    slot = Slot(key, keys_.size() - 1);
    while (keys_[slot]) slot = (slot + 1) & (keys_.size() - 1);
  }
  const int index = static_cast<int>(prefixes_.size());
  keys_[slot] = key;
  children_[slot] = index;
  prefixes_.push_back(child);
  contexts_.push_back(contexts_[parent]);
  ScoreExtension(parent, prefixes_[index], contexts_[index]);
  if (setup_.space < 0 || symbol == setup_.space) prefixes_[index].extension += HotWordWeight(setup_.space < 0 ? index : parent);
  return index;
}

// Tell whether a symbol may follow a prefix, and which node of the lexicon it leads to.
bool Search::IsAllowed(int parent, int symbol, int& node) const {
  node = Lexicon::kRoot;
  if (!setup_.lexicon) return true;
  const Prefix& before = prefixes_[parent];
  if (symbol == setup_.space) {
    if (before.node == Lexicon::kRoot) return false;  // at the start, or after another space
    return !setup_.strict || setup_.lexicon->IsWord(before.node);
  }
  node = before.node == Lexicon::kOutside ? Lexicon::kOutside : setup_.lexicon->Child(before.node, symbol);
  return !setup_.strict || node != Lexicon::kOutside;
}

// Set what the language model adds where a prefix is extended, and the context after it.
void Search::ScoreExtension(int parent, Prefix& child, Context& context) const {
  if (!setup_.language_model) return;
  const Prefix& before = prefixes_[parent];
  if (!setup_.lexicon) {
    const float score = setup_.language_model->Score(contexts_[parent], setup_.units[child.symbol], context);
    child.extension = setup_.alpha * score + setup_.beta;
  } else if (child.symbol == setup_.space) {
    child.extension = FinishWord(before, contexts_[parent], context);
  } else {
    child.extension = setup_.alpha * (Ahead(child.node) - Ahead(before.node));
  }
}

// ln p of the best word that can come of a node of the lexicon, an unknown one outside of it.
float Search::Ahead(int node) const {
  return node == Lexicon::kOutside ? setup_.unknown_alone + setup_.unknown_score : setup_.lexicon->LookAhead(node);
}

// What the language model adds for the word that a prefix ends with, less what was anticipated.
float Search::FinishWord(const Prefix& prefix, const Context& before, Context& after) const {
  const LanguageModel& model = *setup_.language_model;
  const int node = prefix.node;
  const bool known = node != Lexicon::kOutside && setup_.lexicon->IsWord(node) && setup_.lexicon->Word(node) != 0;
  float score = model.Score(before, known ? setup_.lexicon->Word(node) : 0, after);
  if (!known) score += setup_.unknown_score;
  return setup_.alpha * (score - Ahead(node)) + setup_.beta;
}

// The weights of the hot words that end with this prefix: whole words, or the last characters where there are no spaces.
float Search::HotWordWeight(int last) const {
  float weight = 0.0f;
  for (const HotWord& hot : setup_.hot_words) {
    int at = last;
    auto symbol = hot.symbols.rbegin();
    for (; symbol != hot.symbols.rend() && at > 0 && prefixes_[at].symbol == *symbol; ++symbol) at = prefixes_[at].parent;
    const bool whole = setup_.space < 0 || at == 0 || prefixes_[at].symbol == setup_.space;
    if (symbol == hot.symbols.rend() && whole) weight += hot.weight;
  }
  return weight;
}

std::vector<Candidate> Search::Best(int count, bool ended) const {
  struct Ranked {
    bool whole;  // the last word may stand alone
    float score;
    int prefix;
  };
  std::vector<Ranked> ranked;
  for (const int index : active_) {
    const Prefix& prefix = prefixes_[index];
    Ranked entry{true, prefix.score, index};
    if (ended) {
      Context after = contexts_[index];
      if (index > 0 && setup_.space >= 0 && prefix.symbol != setup_.space) {  // as if a space followed
        if (setup_.lexicon) {
          entry.whole = !setup_.strict || (prefix.node != Lexicon::kOutside && setup_.lexicon->IsWord(prefix.node));
          entry.score += FinishWord(prefix, contexts_[index], after);
        }
        entry.score += HotWordWeight(index);
      }
      if (setup_.end_of_sentence && setup_.language_model)
        entry.score += setup_.alpha * setup_.language_model->ScoreEnd(after);
    }
    ranked.push_back(entry);
  }
  std::sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) {
    return a.whole != b.whole ? a.whole : a.score > b.score;
  });
  std::vector<Candidate> best;
  std::vector<int> told;  // texts without a last space, which says nothing
  for (const Ranked& entry : ranked) {
    if (static_cast<int>(best.size()) == count) break;
    const Prefix& prefix = prefixes_[entry.prefix];
    const int text = prefix.symbol == setup_.space && entry.prefix > 0 ? prefix.parent : entry.prefix;
    if (ended && std::find(told.begin(), told.end(), text) != told.end()) continue;
    told.push_back(text);
    best.push_back({Spell(entry.prefix), entry.score});
  }
  return best;
}

// The symbols of a prefix, first to last.
std::vector<PlacedSymbol> Search::Spell(int index) const {
  std::vector<PlacedSymbol> symbols;
  int latest = time_;  // a symbol may have been surer later, in an alignment that does not lead here
  for (; index > 0; index = prefixes_[index].parent) {
    latest = std::min(latest, prefixes_[index].frame);
    symbols.push_back({prefixes_[index].symbol, latest, prefixes_[index].log_p});
  }
  std::reverse(symbols.begin(), symbols.end());
  return symbols;
}

void Search::Rehash(size_t slots) {
  std::vector<uint64_t> keys(slots, 0);
  std::vector<int> children(slots);
  for (size_t old = 0; old < keys_.size(); ++old) {
    if (!keys_[old]) continue;
    size_t slot = Slot(keys_[old], slots - 1);
    while (keys[slot]) slot = (slot + 1) & (slots - 1);
    keys[slot] = keys_[old];
    children[slot] = children_[old];
  }
  keys_.swap(keys);
  children_.swap(children);
}

}  // namespace ds2
