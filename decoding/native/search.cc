#include "search.hh"

#include <algorithm>
#include <cmath>

namespace ds2 {
namespace {

// ln(exp a + exp b).
inline float LogAdd(float a, float b) {
  if (a < b) std::swap(a, b);
  const float difference = b - a;
  return difference < -16.0f ? a : a + std::log1p(std::exp(difference));
}

// Returns the greatest value; compares several at a time, which the compiler turns into SIMD instructions.
inline float Highest(const float* values, int count) {
  constexpr int kLanes = 8;
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, values[0]);
  int i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = values[i + lane] > lanes[lane] ? values[i + lane] : lanes[lane];
  float highest = *std::max_element(lanes, lanes + kLanes);
  for (; i < count; ++i) highest = std::max(highest, values[i]);
  return highest;
}

}  // namespace

Search::Search(const Setup& setup)
    : setup_(setup),
      few_symbols_(setup.symbols <= 64),
      transitions_(setup.language_model.get()),
      offered_(setup.symbols, kImpossible) {
  Reset();
}

void Search::Reset() {
  time_ = 0;
  transitions_.Trim();
  prefixes_.assign(1, Prefix());
  prefixes_[0].place = 0;
  if (setup_.recombine && states_.empty()) {
    size_t slots = 2;
    while (slots < 2 * static_cast<size_t>(setup_.beam_size)) slots *= 2;
    states_.resize(slots);
  }
  const float certain = 0.0f;  // ln 1: the empty text before the first frame
  beam_.assign(1, MakeEntry(0, certain, kImpossible, certain));
  best_ = worst_ = certain;
}

void Search::Feed(const float* log_probs, int frames) {
  for (int frame = 0; frame < frames; ++frame, ++time_) Step(log_probs + static_cast<size_t>(frame) * setup_.symbols);
}

void Search::Step(const float* log_probs) {
  SelectSymbols(log_probs);
  const float least = LeastScore(log_probs[0]);
  newcomers_.clear();
  for (Entry& entry : beam_) Stay(entry, least);
  for (const Entry& entry : beam_) ExtendAll(entry, least);
  const auto survives = [](const Entry& entry) { return std::max(entry.next_blank, entry.next_label) > kImpossible; };
  if (newcomers_.empty() && std::none_of(beam_.begin(), beam_.end(), survives)) return;  // no chosen symbol is allowed
  Rank();
  Replace();
  if (setup_.recombine) Recombine();
}

// Chooses the symbols of a frame: the cutoff_top_n most probable ones, up to a sum of cutoff_prob.
void Search::SelectSymbols(const float* log_probs) {
  const auto more = [](const Scored& a, const Scored& b) { return a.log_p > b.log_p; };
  const size_t most = setup_.cutoff_top_n;
  for (const Scored& before : chosen_) offered_[before.symbol] = kImpossible;
  chosen_.clear();
  // No prefix survives with a symbol further below the frame's best one (see LeastScore).
  float least = Highest(log_probs, setup_.symbols) - setup_.threshold;
  for (int symbol = 0; symbol < setup_.symbols; ++symbol) {
    if (log_probs[symbol] < least) continue;
    chosen_.push_back({log_probs[symbol], symbol});
    if (chosen_.size() < 4 * most) continue;  // from time to time, raise the limit to the best ones so far
    std::nth_element(chosen_.begin(), chosen_.begin() + most - 1, chosen_.end(), more);
    chosen_.resize(most);
    least = chosen_.back().log_p;
  }
  if (chosen_.size() > most) {
    std::nth_element(chosen_.begin(), chosen_.begin() + most, chosen_.end(), more);
    chosen_.resize(most);
  }
  std::sort(chosen_.begin(), chosen_.end(), more);
  if (setup_.cutoff_prob < 1.0f) {
    float sum = 0.0f;
    size_t kept = 0;
    while (kept < chosen_.size() && sum < setup_.cutoff_prob) sum += std::exp(chosen_[kept++].log_p);
    chosen_.resize(kept);
  }
  first_sets_.assign(1, 0);
  for (const Scored& chosen : chosen_) {
    offered_[chosen.symbol] = chosen.log_p;
    first_sets_.push_back(first_sets_.back() | uint64_t{1} << (chosen.symbol & 63));
  }
}

// Returns the least score that a prefix must reach in this frame.
float Search::LeastScore(float blank_log_p) const {
  float least = best_ + chosen_.front().log_p - setup_.threshold;
  // With a language model and a full beam, also that of the worst prefix after a blank, as in the original.
  if (setup_.language_model && static_cast<int>(beam_.size()) >= setup_.beam_size)
    least = std::max(least, worst_ + blank_log_p - std::max(0.0f, setup_.beta));
  return least;
}

// Continues a prefix unchanged: with a blank, or its last symbol repeated.
void Search::Stay(Entry& entry, float least) {
  const float blank = offered_[0], held = entry.symbol < 0 ? kImpossible : offered_[entry.symbol];
  entry.next_blank = entry.score + blank >= least ? entry.score + blank : kImpossible;
  entry.next_label = kImpossible;
  if (entry.score + held < least) return;
  entry.next_label = entry.label + held;
  Prefix& prefix = prefixes_[entry.prefix];
  if (held > prefix.log_p) prefix.frame = time_, prefix.log_p = held;
}

// Extends a prefix by each chosen symbol.
void Search::ExtendAll(const Entry& entry, float least) {
  size_t probable = 0;  // number of chosen symbols that can reach the least score
  while (probable < chosen_.size() && entry.score + chosen_[probable].log_p >= least) ++probable;
  if (few_symbols_ && setup_.lexicon && setup_.strict) {  // only symbols that the lexicon allows
    const uint64_t reachable = first_sets_[probable];
    for (uint64_t left = setup_.lexicon->Symbols(entry.node) & reachable; left; left &= left - 1) {
      const int symbol = __builtin_ctzll(left);
      Extend(entry, symbol, offered_[symbol], least);
    }
    if (reachable >> setup_.space & 1 && setup_.lexicon->IsWord(entry.node))
      Extend(entry, setup_.space, offered_[setup_.space], least);
    return;
  }
  for (size_t i = 0; i < probable; ++i)
    if (chosen_[i].symbol != 0) Extend(entry, chosen_[i].symbol, chosen_[i].log_p, least);
}

void Search::Extend(const Entry& entry, int symbol, float log_p, float least) {
  const float from = symbol == entry.symbol ? entry.blank : entry.score;  // a repeated symbol needs a blank in between
  if (from + log_p < least) return;
  const int child = entry.children >> (symbol & 63) & 1 ? FindChild(entry.prefix, symbol) : -1;
  if (child >= 0) {
    Arrive(child, log_p, from + log_p + prefixes_[child].extension, least);
    return;
  }
  int node;
  if (!IsAllowed(entry.node, symbol, node)) return;
  const float extension = ScoreExtension(entry, symbol, node);
  const float reached = from + log_p + extension;
  if (reached >= least) newcomers_.push_back({entry.prefix, -1, symbol, node, extension, log_p, reached});
}

// Adds an alignment to a known prefix, which is or was in the beam.
void Search::Arrive(int index, float log_p, float reached, float least) {
  if (reached < least) return;
  Prefix& prefix = prefixes_[index];
  if (prefix.place < 0) {
    newcomers_.push_back({prefix.parent, index, prefix.symbol, prefix.node, prefix.extension, log_p, reached});
    return;
  }
  if (log_p > prefix.log_p) prefix.frame = time_, prefix.log_p = log_p;
  float& label = beam_[prefix.place].next_label;
  label = LogAdd(label, reached);
}

// Selects the beam_size best of the beam and the newcomers.
void Search::Rank() {
  ranked_.clear();
  const int places = static_cast<int>(beam_.size());
  for (int place = 0; place < places; ++place) {
    Entry& entry = beam_[place];
    entry.blank = entry.next_blank, entry.label = entry.next_label;
    entry.score = LogAdd(entry.blank, entry.label);
    entry.stays = false;
    if (entry.score > kImpossible) ranked_.push_back({entry.score, place});
  }
  for (size_t i = 0; i < newcomers_.size(); ++i) ranked_.push_back({newcomers_[i].score, places + static_cast<int>(i)});
  if (static_cast<int>(ranked_.size()) > setup_.beam_size) {
    std::nth_element(ranked_.begin(), ranked_.begin() + setup_.beam_size, ranked_.end(),
                     [](const Ranked& a, const Ranked& b) { return a.score > b.score; });
    ranked_.resize(setup_.beam_size);
  }
}

// Replaces the beam by the selected prefixes. Those that stay keep their index; newcomers reuse free ones.
void Search::Replace() {
  const size_t places = beam_.size();
  best_ = kImpossible, worst_ = -kImpossible;
  for (const Ranked& ranked : ranked_) {
    best_ = std::max(best_, ranked.score), worst_ = std::min(worst_, ranked.score);
    if (static_cast<size_t>(ranked.index) < places) beam_[ranked.index].stays = true;
  }
  free_.clear();
  for (size_t place = 0; place < places; ++place) {
    if (beam_[place].stays) continue;
    prefixes_[beam_[place].prefix].place = -1;
    free_.push_back(static_cast<int>(place));
  }
  for (const Ranked& ranked : ranked_) {
    if (static_cast<size_t>(ranked.index) < places) continue;
    const int prefix = Grow(newcomers_[ranked.index - places]);
    if (free_.empty()) {
      free_.push_back(static_cast<int>(beam_.size()));
      beam_.emplace_back();
    }
    prefixes_[prefix].place = free_.back();
    beam_[free_.back()] = MakeEntry(prefix, kImpossible, ranked.score, ranked.score);
    free_.pop_back();
  }
  for (; !free_.empty(); free_.pop_back()) {  // the last entry is free, or moves to the free index
    const int place = free_.back();
    if (place + 1 < static_cast<int>(beam_.size())) {
      beam_[place] = beam_.back();
      prefixes_[beam_[place].prefix].place = place;
    }
    beam_.pop_back();
  }
}

// Removes prefixes whose last symbol, place in the lexicon and context of the language model are those of a better prefix: what
// follows adds the same to both, but for the shares of alignments that end in a blank.
void Search::Recombine() {
  const size_t slots = states_.size();
  std::fill(states_.begin(), states_.end(), -1);
  for (size_t place = 0; place < beam_.size();) {
    const Entry& entry = beam_[place];
    uint64_t hash = (static_cast<uint64_t>(entry.context) << 32 | static_cast<uint32_t>(entry.node)) * 0x9E3779B97F4A7C15ull;
    hash = (hash ^ static_cast<uint32_t>(entry.symbol)) * 0x9E3779B97F4A7C15ull;
    size_t slot = (hash >> 32) & (slots - 1);
    const auto differs = [&](const Entry& other) {
      return other.context != entry.context || other.node != entry.node || other.symbol != entry.symbol;
    };
    while (states_[slot] >= 0 && differs(beam_[states_[slot]])) slot = (slot + 1) & (slots - 1);
    const int other = states_[slot];
    if (other < 0) {
      states_[slot] = static_cast<int>(place++);
      continue;
    }
    if (entry.score > beam_[other].score) {
      std::swap(beam_[other], beam_[place]);
      prefixes_[beam_[other].prefix].place = other;
    }
    Remove(place);
  }
  worst_ = best_;
  for (const Entry& entry : beam_) worst_ = std::min(worst_, entry.score);
}

// Removes a prefix from the beam; the last one moves to its index.
void Search::Remove(size_t place) {
  prefixes_[beam_[place].prefix].place = -1;
  if (place + 1 < beam_.size()) {
    beam_[place] = beam_.back();
    prefixes_[beam_[place].prefix].place = static_cast<int>(place);
  }
  beam_.pop_back();
}

// Adds a newcomer to the tree unless it is in it; returns its index.
int Search::Grow(const Newcomer& newcomer) {
  int index = newcomer.prefix;
  if (index < 0) {
    index = static_cast<int>(prefixes_.size());
    prefixes_.emplace_back();
    Prefix& prefix = prefixes_.back();
    Prefix& parent = prefixes_[newcomer.parent];
    prefix.parent = newcomer.parent;
    prefix.symbol = newcomer.symbol;
    prefix.node = newcomer.node;
    prefix.extension = newcomer.extension;
    prefix.context = parent.context;
    if (setup_.lexicon && prefix.symbol == setup_.space)
      prefix.context = transitions_.Next(parent.context, WordAt(parent.node));
    else if (setup_.language_model && !setup_.lexicon)
      prefix.context = transitions_.Next(parent.context, setup_.units[prefix.symbol]);
    prefix.next_sibling = parent.first_child;
    parent.first_child = index;
    parent.children |= uint64_t{1} << (newcomer.symbol & 63);
    if (parent.place >= 0) beam_[parent.place].children = parent.children;
  }
  prefixes_[index].frame = time_;
  prefixes_[index].log_p = newcomer.log_p;
  return index;
}

Search::Entry Search::MakeEntry(int index, float blank, float label, float score) const {
  const Prefix& prefix = prefixes_[index];
  const float ahead = setup_.lexicon ? Ahead(prefix.node) : 0.0f;
  return {index,       prefix.symbol, prefix.node, prefix.context,  ahead, blank, label, score,
          kImpossible, kImpossible,   prefix.children, true};
}

int Search::FindChild(int parent, int symbol) const {
  int child = prefixes_[parent].first_child;
  while (child >= 0 && prefixes_[child].symbol != symbol) child = prefixes_[child].next_sibling;
  return child;
}

// Tells whether a symbol is allowed at a node of the lexicon, and sets the node that it leads to.
bool Search::IsAllowed(int node, int symbol, int& next) const {
  next = Lexicon::kRoot;
  if (!setup_.lexicon) return setup_.writable.empty() || setup_.writable[symbol];
  if (symbol == setup_.space) {
    if (node == Lexicon::kRoot) return false;  // at the start, or after another space
    return !setup_.strict || setup_.lexicon->IsWord(node);
  }
  next = node == Lexicon::kOutside ? Lexicon::kOutside : setup_.lexicon->Child(node, symbol);
  return !setup_.strict || next != Lexicon::kOutside;
}

// Returns what language model and hot words add when a prefix is extended by a symbol.
float Search::ScoreExtension(const Entry& before, int symbol, int next_node) {
  const bool unit = setup_.space < 0 || symbol == setup_.space;
  float score = 0.0f;
  if (setup_.lexicon)
    score = unit ? FinishWord(before.node, before.context) : setup_.alpha * (Ahead(next_node) - before.ahead);
  else if (setup_.language_model)
    score = setup_.alpha * ScoreWord(before.context, setup_.units[symbol]) + setup_.beta;
  if (unit && !setup_.hot_words.empty()) score += HotWordWeight(before.prefix, setup_.space < 0 ? symbol : -1);
  return score;
}

// Returns ln p of the best word below a node of the lexicon; outside of it, of an unknown word.
float Search::Ahead(int node) const {
  return node == Lexicon::kOutside ? setup_.unknown_alone + setup_.unknown_score : setup_.lexicon->LookAhead(node);
}

// Returns the word that ends at a node of the lexicon; 0, the unknown word, if there is none.
WordIndex Search::WordAt(int node) const {
  return node != Lexicon::kOutside && setup_.lexicon->IsWord(node) ? setup_.lexicon->Word(node) : 0;
}

// Returns what the language model adds for the word that ends at a node, minus the look-ahead added before.
float Search::FinishWord(int node, int context) {
  const WordIndex word = WordAt(node);
  return setup_.alpha * (ScoreWord(context, word) - Ahead(node)) + setup_.beta;
}

// Returns ln p of a word or character in its context; of an unknown one, with its penalty.
float Search::ScoreWord(int context, WordIndex word) {
  return transitions_.Score(context, word) + (word ? 0.0f : setup_.unknown_score);
}

// Returns the weights of the hot words at the end of a prefix, extended by a symbol unless it is -1: complete words, or
// characters if there are no spaces.
float Search::HotWordWeight(int last, int symbol) const {
  float weight = 0.0f;
  for (const HotWord& hot : setup_.hot_words) {
    auto next = hot.symbols.rbegin();
    if (symbol >= 0 && *next++ != symbol) continue;
    int at = last;
    for (; next != hot.symbols.rend() && at > 0 && prefixes_[at].symbol == *next; ++next) at = prefixes_[at].parent;
    const bool whole = setup_.space < 0 || at == 0 || prefixes_[at].symbol == setup_.space;
    if (next == hot.symbols.rend() && whole) weight += hot.weight;
  }
  return weight;
}

// A strict lexicon allows no incomplete word at the end; if all prefixes have one, it is removed from the best one.
std::vector<Candidate> Search::Best(int count, bool ended) {
  struct Final {
    bool whole;  // the last word is allowed
    float score;
    int prefix;
  };
  std::vector<Final> finals;
  for (const Entry& entry : beam_) {
    const Prefix& prefix = prefixes_[entry.prefix];
    Final final{true, entry.score, entry.prefix};
    if (ended) {
      int context = prefix.context;
      if (entry.prefix > 0 && setup_.space >= 0 && prefix.symbol != setup_.space) {  // complete the last word, as before a space
        if (setup_.lexicon) {
          final.whole = !setup_.strict || (prefix.node != Lexicon::kOutside && setup_.lexicon->IsWord(prefix.node));
          final.score += FinishWord(prefix.node, context);
          context = transitions_.Next(context, WordAt(prefix.node));
        }
        final.score += HotWordWeight(entry.prefix, -1);
      }
      if (setup_.end_of_sentence && setup_.language_model)
        final.score += setup_.alpha * setup_.language_model->ScoreEnd(transitions_.At(context));
    }
    finals.push_back(final);
  }
  std::sort(finals.begin(), finals.end(), [](const Final& a, const Final& b) {
    return a.whole != b.whole ? a.whole : a.score != b.score ? a.score > b.score : a.prefix < b.prefix;
  });
  std::vector<Candidate> best;
  std::vector<int> texts;  // the texts so far, without a space at the end
  for (const Final& final : finals) {
    if (static_cast<int>(best.size()) == count || (!final.whole && !best.empty())) break;
    int prefix = final.prefix;
    while (!final.whole && prefix > 0 && prefixes_[prefix].symbol != setup_.space) prefix = prefixes_[prefix].parent;
    const int text = prefixes_[prefix].symbol == setup_.space && prefix > 0 ? prefixes_[prefix].parent : prefix;
    if (ended && std::find(texts.begin(), texts.end(), text) != texts.end()) continue;
    texts.push_back(text);
    best.push_back({Spell(prefix), final.score});
  }
  return best;
}

void Search::Settle(float margin, int age) {
  const auto worse = [](const Entry& a, const Entry& b) { return a.score < b.score; };
  int old = std::max_element(beam_.begin(), beam_.end(), worse)->prefix;
  while (old > 0 && prefixes_[old].frame > time_ - age) old = prefixes_[old].parent;
  worst_ = best_;
  for (size_t place = 0; place < beam_.size();) {
    int at = beam_[place].prefix;
    while (at > old) at = prefixes_[at].parent;  // a parent precedes its children in the arena
    if (at == old || beam_[place].score >= best_ - margin) {
      worst_ = std::min(worst_, beam_[place++].score);
      continue;
    }
    Remove(place);
  }
}

// A parent precedes its children in the arena.
std::vector<PlacedSymbol> Search::Settled() const {
  int shared = beam_[0].prefix;
  for (const Entry& entry : beam_)
    for (int other = entry.prefix; other != shared;) {
      int& later = other > shared ? other : shared;
      later = prefixes_[later].parent;
    }
  return Spell(shared);
}

// Returns the symbols of a prefix, first to last.
std::vector<PlacedSymbol> Search::Spell(int index) const {
  std::vector<PlacedSymbol> symbols;
  int latest = time_;  // another alignment may have made an earlier symbol most probable in a later frame
  for (; index > 0; index = prefixes_[index].parent) {
    latest = std::min(latest, prefixes_[index].frame);
    symbols.push_back({prefixes_[index].symbol, latest, prefixes_[index].log_p});
  }
  std::reverse(symbols.begin(), symbols.end());
  return symbols;
}

}  // namespace ds2
