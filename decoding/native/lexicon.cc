#include "lexicon.hh"

#include <algorithm>
#include <cstddef>
#include <limits>

namespace ds2 {

Lexicon::Lexicon(std::vector<SpelledWord> words, int symbols) : small_(symbols <= 64) {
  std::stable_sort(words.begin(), words.end(),
                   [](const SpelledWord& a, const SpelledWord& b) { return a.symbols < b.symbols; });
  struct Range {
    size_t begin, end;  // the words that start with the symbols of the node
  };
  // Breadth first, so that the children of a node are adjacent.
  std::vector<Range> ranges{{0, words.size()}};
  std::vector<size_t> depths{0};
  nodes_.emplace_back();
  for (size_t node = 0; node < nodes_.size(); ++node) {
    const size_t depth = depths[node];
    size_t word = ranges[node].begin;
    const size_t end = ranges[node].end;
    if (word < end && words[word].symbols.size() == depth && depth > 0) {
      nodes_[node].is_word = true;
      nodes_[node].word = words[word].word;
      nodes_[node].look_ahead = words[word].score;
    }
    while (word < end && words[word].symbols.size() == depth) ++word;  // words with the same spelling
    nodes_[node].first_child = static_cast<int>(nodes_.size());
    while (word < end) {
      const int symbol = words[word].symbols[depth];
      const size_t begin = word;
      while (word < end && words[word].symbols[depth] == symbol) ++word;
      if (small_) nodes_[node].children |= uint64_t{1} << symbol;
      ++nodes_[node].child_count;
      nodes_.emplace_back();
      nodes_.back().symbol = symbol;
      ranges.push_back({begin, word});
      depths.push_back(depth + 1);
    }
  }
  for (size_t node = nodes_.size(); node-- > 0;) {  // children are behind their parent
    Node& n = nodes_[node];
    float best = n.is_word ? n.look_ahead : -std::numeric_limits<float>::infinity();
    for (int child = n.first_child; child < n.first_child + n.child_count; ++child)
      best = std::max(best, nodes_[child].look_ahead);
    n.look_ahead = best;
  }
  nodes_[kRoot].look_ahead = 0.0f;  // no look-ahead between words
}

int Lexicon::Child(int node, int symbol) const {
  const Node& n = nodes_[node];
  if (small_) {
    const uint64_t bit = uint64_t{1} << symbol;
    if (!(n.children & bit)) return kOutside;
    return n.first_child + __builtin_popcountll(n.children & (bit - 1));
  }
  const auto begin = nodes_.begin() + n.first_child, end = begin + n.child_count;
  const auto found = std::lower_bound(begin, end, symbol, [](const Node& child, int s) { return child.symbol < s; });
  return found != end && found->symbol == symbol ? static_cast<int>(found - nodes_.begin()) : kOutside;
}

}  // namespace ds2
