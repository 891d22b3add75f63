// Many queries of each sequence over its pages: the last tokens of a sequence, each of which sees all
// tokens up to itself.
//
// A block of queries goes over the keys block by block and keeps, for each query, the maximum of its
// scores so far, the sum of their exponentials, and the values weighted by them (as in
// FlashAttention, Dao et al. 2022). Both products run on panels.
#include <algorithm>
#include <vector>

#include "e4m3.h"
#include "panels.h"
#include "vectors.h"

namespace segue {
namespace {

constexpr long kQueries = 128;  // Tokens of a block.
constexpr long kKeys = 256;     // Tokens of a block.

template <class E>
struct Multiply;
template <>
struct Multiply<float> {
  typedef Singles Kind;
};
template <>
struct Multiply<Bf16> {
#if defined(__AVX512BF16__)
  typedef Pairs Kind;
#else
  typedef Singles Kind;
#endif
};

// Numbers of a word of the inner loop, and whether bfloat16 is widened for it.
template <class E>
constexpr bool kIsPaired =
    sizeof(E) == 2 && std::is_same<typename Multiply<E>::Kind, Pairs>::value;
template <class E>
constexpr bool kIsWidened = sizeof(E) == 2 && !kIsPaired<E>;

struct Shape {
  long Q, G, X, O;
  float k_scale, v_scale;
  long repeats() const { return Q / G; }
  long panels() const { return (X + kPanel - 1) / kPanel; }
};

// One block of queries of one key head, with memory that a thread uses again and again.
template <class E>
struct Block {
  typedef typename Multiply<E>::Kind Kind;
  typedef typename Kind::Input Input;
  static constexpr long kWord = kIsPaired<E> ? 2 : 1;  // Numbers of one input.
  const Shape s;
  const long most_rows;
  std::unique_ptr<uint32_t[], Free> panel;
  std::unique_ptr<float[], Free> scores, sums;
  std::vector<Input> queries, weights;
  std::vector<float> most, total;

  explicit Block(Shape s)
      : s(s), most_rows(kQueries * s.repeats()),
        panel(aligned<uint32_t>(std::max(s.X, kKeys) * kPanel)),
        scores(aligned<float>(kKeys / kPanel * most_rows * kPanel)),
        sums(aligned<float>(s.panels() * most_rows * kPanel)),
        queries(most_rows * s.X / kWord), weights(most_rows * kKeys / kWord),
        most(most_rows), total(most_rows) {}

  float* score_row(long p, long row) { return scores.get() + (p * most_rows + row) * kPanel; }
  float* sum_row(long p, long row) { return sums.get() + (p * most_rows + row) * kPanel; }

  static void put(Input* row, long i, float x) {
    if constexpr (kIsPaired<E>)
      reinterpret_cast<Bf16*>(row)[i] = to_bf16(x);
    else
      row[i] = x;
  }

  // Query tokens `first` to `first + tokens` of head g; a row is one of their heads.
  void start(const E* q, long first, long tokens, long g) {
    for (long t = 0; t < tokens; t++)
      for (long r = 0; r < s.repeats(); r++) {
        const E* from = q + ((first + t) * s.Q + g * s.repeats() + r) * s.X;
        Input* to = queries.data() + (t * s.repeats() + r) * s.X / kWord;
        if constexpr (kIsWidened<E>)
          for (long i = 0; i < s.X; i++) to[i] = to_float(from[i]);
        else
          std::memcpy(to, from, s.X * sizeof(E));
      }
    const long rows = tokens * s.repeats();
    std::fill_n(most.begin(), rows, -INFINITY);
    std::fill_n(total.begin(), rows, 0.0f);
    std::fill_n(sums.get(), s.panels() * most_rows * kPanel, 0.0f);
  }

  // Scores of all rows with the keys of one panel.
  void score(const E* const* key_rows, long count, long p, long rows) {
    constexpr long numbers = 4 / sizeof(E);
    const long words = s.X / numbers;
    // Keys of different pages lie apart: one arrangement for each run of them.
    std::fill_n(panel.get(), s.X / kWord * kPanel, 0u);
    for (long n = 0; n < count;) {
      long run = 1;
      while (n + run < count && key_rows[n + run] == key_rows[n] + run * s.X) run++;
      arrange_at((const uint32_t*)key_rows[n], n, run, words);
      n += run;
    }
    for (long row = 0; row < rows; row += kPanelRows)
      panel_rows<Kind>(int(std::min<long>(kPanelRows, rows - row)),
                       queries.data() + row * s.X / kWord, s.X / kWord, panel.get(), s.X / kWord,
                       score_row(p, row), false);
  }

  // Key rows `at` to `at + run` of a panel.
  void arrange_at(const uint32_t* w, long at, long run, long words) {
    if (at == 0 && run == kPanel) return arrange(w, words, run, words, kIsWidened<E>, panel.get());
    for (long n = 0; n < run; n++)
      for (long k = 0; k < words; k++) {
        const uint32_t word = w[n * words + k];
        if constexpr (kIsWidened<E>) {
          panel[2 * k * kPanel + at + n] = word << 16;
          panel[(2 * k + 1) * kPanel + at + n] = word & 0xffff0000u;
        } else {
          panel[k * kPanel + at + n] = word;
        }
      }
  }

  // From scores of keys `first` on to weights; `seen` of a row: how many of them it may see.
  void weigh(long first, long count, long start, long repeats, long rows) {
    const Floats scale = splat(s.k_scale / std::sqrt(float(s.X)));
    const long width = (count + kPanel - 1) / kPanel * kPanel;
    for (long row = 0; row < rows; row++) {
      const long seen = std::clamp(start + row / repeats + 1 - first, 0L, count);
      for (long i = seen; i < width; i++) score_row(i / kPanel, row)[i % kPanel] = -INFINITY;
      Floats best = splat(-INFINITY);
      for (long i = 0; i < width; i += kLanes) {
        Floats x = load_floats(score_row(i / kPanel, row) + i % kPanel) * scale;
        Ints is_more = x > best;
        best = (Floats)(((Ints)x & is_more) | ((Ints)best & ~is_more));
        store(score_row(i / kPanel, row) + i % kPanel, x);
      }
      const float now = std::max(most[row], largest(best));
      const float fade = most[row] == now ? 1.0f : std::exp(most[row] - now);
      Input* to = weights.data() + row * kKeys / kWord;
      Floats added = {};
      for (long i = 0; i < width; i += kLanes) {
        Floats p = now == -INFINITY ? Floats{}
                                    : exp(load_floats(score_row(i / kPanel, row) + i % kPanel) - now);
        added += p;
        if constexpr (kIsPaired<E>)
          store_floats(reinterpret_cast<Bf16*>(to) + i, p);
        else
          store_floats(reinterpret_cast<float*>(to) + i, p);
      }
      total[row] = total[row] * fade + sum(added);
      most[row] = now;
      if (fade != 1.0f)
        for (long p = 0; p < s.panels(); p++)
          for (long i = 0; i < kPanel; i += kLanes)
            store(sum_row(p, row) + i, load_floats(sum_row(p, row) + i) * fade);
    }
  }

  // The weighted values of `count` keys are added to all rows, panel by panel.
  void add_values(const E* const* value_rows, long count, long rows) {
    const long steps = (count + kWord - 1) / kWord;
    for (long p = 0; p < s.panels(); p++) {
      const long first = p * kPanel, columns = std::min(kPanel, s.X - first);
      for (long k = 0; k < steps; k++) {
        uint32_t* to = panel.get() + k * kPanel;
        const E* low = value_rows[k * kWord] + first;
        const E* high = kIsPaired<E> && k * 2 + 1 < count ? value_rows[k * 2 + 1] + first : nullptr;
        for (long i = 0; i < kPanel; i += kLanes) {
          Words word = {};
          if (i < columns) {
            Words bits = (Words)load_floats(low + i);
            if constexpr (kIsPaired<E>) {
              word = bits >> 16;
              if (high) word |= (Words)load_floats(high + i);
            } else {
              word = bits;
            }
          }
          store(to + i, word);
        }
      }
      for (long row = 0; row < rows; row += kPanelRows)
        panel_rows<Kind>(int(std::min<long>(kPanelRows, rows - row)),
                         weights.data() + row * kKeys / kWord, kKeys / kWord, panel.get(), steps,
                         sum_row(p, row), true);
    }
  }

  void finish(E* out, long first, long tokens, long g) {
    for (long t = 0; t < tokens; t++)
      for (long r = 0; r < s.repeats(); r++) {
        const long row = t * s.repeats() + r;
        E* to = out + ((first + t) * s.Q + g * s.repeats() + r) * s.X;
        const float by = s.v_scale / total[row];
        for (long i = 0; i < s.X; i += kLanes)
          store_floats(to + i, load_floats(sum_row(i / kPanel, row) + i % kPanel) * by);
      }
  }
};

template <class E>
int attend_prefill(const E* q, void* pages, const int64_t* cu_tokens, const int64_t* starts,
                   const int64_t* table, E* out, long N, long P, long Q, long Z, long G, long O,
                   long X, long is_e4m3, float k_scale, float v_scale, int threads) {
  const Shape s{Q, G, X, O, k_scale, v_scale};
  const Stored<E> stored{pages, is_e4m3 != 0};
  for (long n = 0; n < N; n++) {
    const long tokens = starts[n] + cu_tokens[n + 1] - cu_tokens[n];
    if (tokens > P * O || !are_within(table + n * P, (tokens + O - 1) / O, 0, Z)) return 1;
  }
  struct Item {
    long n, g, first, tokens;
  };
  std::vector<Item> items;
  for (long n = 0; n < N; n++)
    for (long t = cu_tokens[n]; t < cu_tokens[n + 1]; t += kQueries)
      for (long g = 0; g < s.G; g++)
        items.push_back({n, g, t, std::min<long>(kQueries, cu_tokens[n + 1] - t)});
  // The longest first, so that no thread is left with one at the end.
  const auto length = [&](const Item& i) { return starts[i.n] + i.first - cu_tokens[i.n]; };
  std::stable_sort(items.begin(), items.end(),
                   [&](const Item& a, const Item& b) { return length(a) > length(b); });
#pragma omp parallel num_threads(threads)
  {
    Block<E> block(s);
    const E* rows[kKeys];
    std::vector<E> decoded(is_e4m3 ? kKeys * X : 0);
#pragma omp for schedule(dynamic, 1)
    for (size_t i = 0; i < items.size(); i++) {
      const Item item = items[i];
      const long start = length(item), end = start + item.tokens, count = item.tokens * s.repeats();
      block.start(q, item.first, item.tokens, item.g);
      for (long first = 0; first < end; first += kKeys) {
        const long keys = std::min(kKeys, end - first);
        const auto find = [&](long part) {
          for (long k = 0; k < keys; k++) {
            const long at = first + k, page = table[item.n * P + at / s.O];
            const long row = ((page * 2 + part) * s.G + item.g) * s.O + at % s.O;
            rows[k] = stored.numbers(row * s.X, s.X, decoded.data() + k * s.X * stored.is_e4m3);
          }
        };
        find(0);
        for (long p = 0; p * kPanel < keys; p++)
          block.score(rows + p * kPanel, std::min(kPanel, keys - p * kPanel), p, count);
        block.weigh(first, keys, start, s.repeats(), count);
        find(1);
        block.add_values(rows, keys, count);
      }
      block.finish(out, item.first, item.tokens, item.g);
    }
  }
  return 0;
}

}  // namespace
}  // namespace segue

SEGUE_EXPORT(attend_prefill)
