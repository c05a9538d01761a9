// The jitter of many rows on the CPU, a vector of rows at a time. Included inside an instruction set's
// namespace, after common/vector_cpu.inl.

constexpr int kNoiseRows = kLanes<float>;  // rows a step
using NoiseFloats = VectorOf<float, kNoiseRows>;
using NoiseInts = VectorOf<int32_t, kNoiseRows>;

// Word i of row r is w[i][r].
struct RowWords {
  alignas(kVectorBytes) uint32_t w[4][kNoiseRows];
};

inline RowWords philox_rows(uint64_t seed, uint64_t offset, int64_t begin) {
  RowWords rows;
  for (int r = 0; r < kNoiseRows; ++r) {
    const Words c = philox_counter(offset, static_cast<uint64_t>(begin + r));
    for (int i = 0; i < 4; ++i) rows.w[i][r] = c.w[i];
  }
  PhiloxKey key(seed);
  for (int round = 0; round < kPhiloxRounds; ++round, key.advance()) {
    for (int r = 0; r < kNoiseRows; ++r) {
      const Words c = philox_round({{rows.w[0][r], rows.w[1][r], rows.w[2][r], rows.w[3][r]}}, key);
      for (int i = 0; i < 4; ++i) rows.w[i][r] = c.w[i];
    }
  }
  return rows;
}

inline NoiseFloats uniform_rows(const uint32_t* words) {
  NoiseFloats values;
  for (int r = 0; r < kNoiseRows; ++r) values[r] = uniform(words[r]);
  return values;
}

// log x for x in [2^-24, 1]. With x = 2^e m, 1/sqrt(2) <= m < sqrt(2), and s = (m - 1) / (m + 1):
// log x = e ln 2 + 2 (s + s^3 / 3 + s^5 / 5 + ...); what is left out is below 1e-9.
inline NoiseFloats log_of(NoiseFloats x) {
  constexpr int32_t kHalfRoot = 0x3F3504F3;  // the bits of 1/sqrt(2)
  const NoiseInts bits = reinterpret_cast<NoiseInts>(x);
  const NoiseInts e = (bits - kHalfRoot) >> 23;
  const NoiseFloats m = reinterpret_cast<NoiseFloats>(bits - (e << 23));
  const NoiseFloats s = (m - 1.0f) / (m + 1.0f);
  const NoiseFloats square = s * s;
  NoiseFloats series = square * (1.0f / 9) + 1.0f / 7;
  series = series * square + 1.0f / 5;
  series = series * square + 1.0f / 3;
  series = series * square + 1.0f;
  return __builtin_convertvector(e, NoiseFloats) * 0.693147181f + 2.0f * s * series;
}

// -x where `two` is 2, x where it is 0.
inline NoiseFloats negated_where(NoiseInts two, NoiseFloats x) {
  using Bits = VectorOf<uint32_t, kNoiseRows>;
  return reinterpret_cast<NoiseFloats>(reinterpret_cast<Bits>(x) ^ (reinterpret_cast<Bits>(two) << 30));
}

// box_muller of philox.h. With q the nearest quarter of a turn and r the angle left, |r| <= pi / 4, sine
// and cosine of r are their Taylor series (errors below 3e-8), exchanged for odd q, signs by q.
inline void box_muller_rows(const uint32_t* first, const uint32_t* second, NoiseFloats* normals) {
  const NoiseFloats square = -2.0f * log_of(uniform_rows(first) + 0x1p-24f);
  NoiseFloats radius;
  for (int r = 0; r < kNoiseRows; ++r) radius[r] = std::sqrt(square[r]);
  const NoiseFloats turn = uniform_rows(second);
  const NoiseInts q = __builtin_convertvector(turn * 4.0f + 0.5f, NoiseInts);
  const NoiseFloats r = (turn - __builtin_convertvector(q, NoiseFloats) * 0.25f) * 6.283185307179586f;
  const NoiseFloats rr = r * r;
  NoiseFloats sine = rr * (1.0f / 362880) - 1.0f / 5040;
  sine = sine * rr + 1.0f / 120;
  sine = sine * rr - 1.0f / 6;
  sine = (sine * rr + 1.0f) * r;
  NoiseFloats cosine = rr * (1.0f / 40320) - 1.0f / 720;
  cosine = cosine * rr + 1.0f / 24;
  cosine = cosine * rr - 0.5f;
  cosine = cosine * rr + 1.0f;
  const NoiseInts odd = (q & 1) != 0;
  normals[0] = radius * negated_where((q + 1) & 2, odd ? sine : cosine);
  normals[1] = radius * negated_where(q & 2, odd ? cosine : sine);
}

// jitter_noise of philox.h for rows [begin, begin + count): (count, D).
template <int D>
inline void fill_noise(const JitterArgs& jitter, int64_t begin, int64_t count, float* noise) {
  const int64_t place = begin + (jitter.first_row ? *jitter.first_row : 0);
  const uint64_t seed = static_cast<uint64_t>(jitter.state[0]);
  const uint64_t offset = static_cast<uint64_t>(jitter.state[1]);
  const uint32_t batch_coin = philox(seed, offset, ~uint64_t{0}).w[0];
  for (int64_t i = 0; i < count; i += kNoiseRows) {
    const RowWords words = philox_rows(seed, offset, place + i);
    NoiseFloats normals[4];
    box_muller_rows(words.w[2], words.w[3], normals);
    if constexpr (D > 2) {
      const RowWords more = philox_rows(seed, offset + 1, place + i);
      box_muller_rows(more.w[0], more.w[1], normals + 2);
    }
    for (int r = 0; r < kNoiseRows && i + r < count; ++r) {
      const bool chosen = uniform(jitter.per_batch ? batch_coin : words.w[0][r]) < jitter.probability;
      for (int j = 0; j < D; ++j) noise[(i + r) * D + j] = chosen ? normals[j][r] * jitter.std : 0.0f;
    }
  }
}
