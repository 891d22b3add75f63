// A few queries of each sequence over its pages, which are read where they are.
//
// The tokens of a sequence are cut into splits of a fixed size, so that threads share a long one and
// the result does not depend on how many threads there are. Each split has a softmax of its own,
// and they are joined at the end.
#include <algorithm>
#include <vector>

#include "blocks.h"
#include "dots.h"
#include "e4m3.h"
#include "vectors.h"

namespace segue {
namespace {

constexpr long kSplit = 1024;  // Tokens.

struct Shape {
  long Q, G, X, O;
  float k_scale, v_scale;
};

// One split of one key head: Y queries over tokens first to end. `visible[y]`: how many of the
// sequence's tokens query y sees. `decoded`: memory for the numbers of a page's codes.
template <class E>
void split(const E* q, Stored<E> pages, const int64_t* table, const long* visible, long Y,
           long first, long end, long g, Shape s, float* scores, E* decoded, float* out,
           float* most, float* total) {
  const long X = s.X, length = end - first;
  const float scale = s.k_scale / std::sqrt(float(X));
  for (long at = first; at < end;) {
    const long offset = at % s.O, count = std::min(s.O - offset, end - at);
    const long row = (table[at / s.O] * 2 * s.G + g) * s.O + offset;
    const E* keys = pages.numbers(row * X, count * X, decoded);
    // Blocks of key rows that stay in the first cache for all queries.
    for (long n = 0; n < count; n += kLanes)
      dots_of_rows(q, keys, scores + (at - first), Y, n, std::min(n + kLanes, count), kSplit, X);
    at += count;
  }
  for (long y = 0; y < Y; y++) {
    float* row = scores + y * kSplit;
    const long seen = std::clamp(visible[y] - first, 0L, length);
    float best = -INFINITY;
    for (long i = 0; i < seen; i++) best = std::max(best, row[i]);
    most[y] = best * scale;
    Floats sums = {};
    for (long i = 0; i < length; i += kLanes) {
      const long count = std::min(kLanes, std::max(seen - i, 0L));
      Floats p = exp((load_some(row + i, length - i) - best) * scale);
      for (long lane = count; lane < kLanes; lane++) p[lane] = 0;
      sums += p;
      store_some(row + i, p, length - i);
    }
    total[y] = sum(sums);
  }
  std::fill(out, out + Y * X, 0.0f);
  for (long at = first; at < end;) {
    const long offset = at % s.O, count = std::min(s.O - offset, end - at);
    const long row = ((table[at / s.O] * 2 + 1) * s.G + g) * s.O + offset;
    const E* values = pages.numbers(row * X, count * X, decoded);
    blocks::product(scores + (at - first), kSplit, 1, values, X, Y, X, count, out, X, 1);
    at += count;
  }
}

// q and out [T, Q, X] by draft rounds; query j of sequence d sees tokens `first_position` to
// lengths[d] + j.
template <class E>
int attend(const E* q, void* pages, const int64_t* table, const int64_t* lengths,
            const int64_t* round_sizes, E* out, long rounds, long P, long first_position, long Q,
           long Z, long G, long O, long X, long is_e4m3, float k_scale, float v_scale,
           int threads) {
  const Shape s{Q, G, X, O, k_scale, v_scale};
  const Stored<E> stored{pages, is_e4m3 != 0};
  const long sequences = round_sizes[0], repeats = Q / G;
  std::vector<long> queries(sequences, 0), row_of(rounds, 0), first_part(sequences + 1, 0);
  for (long j = 0; j + 1 < rounds; j++) row_of[j + 1] = row_of[j] + round_sizes[j];
  const auto num_splits = [&](long d) {
    const long tokens = lengths[d] > 0 ? lengths[d] + queries[d] - 1 - first_position : 0;
    return tokens > 0 ? (tokens + kSplit - 1) / kSplit : 0;
  };
  for (long d = 0; d < sequences; d++) {
    for (long j = 0; j < rounds && d < round_sizes[j]; j++) queries[d]++;
    first_part[d + 1] = first_part[d] + num_splits(d) * queries[d];
  }
  for (long d = 0; d < sequences; d++) {
    const long tokens = lengths[d] > 0 ? lengths[d] + queries[d] - 1 : 0;
    if (tokens > P * O || !are_within(table + d * P, (tokens + O - 1) / O, 0, Z)) return 1;
  }
  struct Item {
    long d, g, split;
  };
  std::vector<Item> items;
  for (long d = 0; d < sequences; d++)
    for (long i = 0; i < num_splits(d); i++)
      for (long g = 0; g < s.G; g++) items.push_back({d, g, i});
  // Of each split of a sequence: its queries' sums, maxima and totals, head by head.
  const long parts = first_part[sequences] * s.Q;
  std::vector<float> sums(parts * X), most(parts), total(parts);
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> scores(rounds * repeats * kSplit);
    std::vector<E> packed(rounds * repeats * X);
    std::vector<E> decoded(is_e4m3 ? std::min(O, kSplit) * X : 0);
    std::vector<long> visible(rounds * repeats);
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < items.size(); i++) {
      const auto [d, g, index] = items[i];
      const long Y = queries[d] * repeats;
      for (long j = 0; j < queries[d]; j++) {
        std::copy_n(q + ((row_of[j] + d) * s.Q + g * repeats) * X, repeats * X,
                    packed.data() + j * repeats * X);
        std::fill_n(visible.begin() + j * repeats, repeats, lengths[d] + j);
      }
      const long first = first_position + index * kSplit;
      const long end = std::min(first + kSplit, long(lengths[d]) + queries[d] - 1);
      const long at = first_part[d] * s.Q + (index * s.G + g) * Y;
      split(packed.data(), stored, table + d * P, visible.data(), Y, first, end, g, s,
            scores.data(), decoded.data(), sums.data() + at * X, most.data() + at,
            total.data() + at);
    }
#pragma omp for schedule(static)
    for (long d = 0; d < sequences; d++)
      for (long j = 0; j < queries[d]; j++)
        for (long n = 0; n < s.Q; n++) {
          E* to = out + ((row_of[j] + d) * s.Q + n) * X;
          const long Y = queries[d] * repeats, splits = num_splits(d);
          const auto part = [&](long i) {
            return first_part[d] * s.Q + (i * s.G + n / repeats) * Y + j * repeats + n % repeats;
          };
          float best = -INFINITY;
          for (long i = 0; i < splits; i++) best = std::max(best, most[part(i)]);
          float whole = 0;
          for (long i = 0; i < splits; i++)
            if (total[part(i)] > 0) whole += total[part(i)] * std::exp(most[part(i)] - best);
          for (long c = 0; c < X; c += kLanes) {
            Floats x = {};
            for (long i = 0; i < splits; i++)
              if (total[part(i)] > 0)
                x += load_floats(sums.data() + part(i) * X + c) *
                     (std::exp(most[part(i)] - best) / whole);
            store_floats(to + c, x * s.v_scale);
          }
        }
  }
  return 0;
}

}  // namespace
}  // namespace segue

SEGUE_EXPORT(attend)
