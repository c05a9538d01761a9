// Coordinate jitter: Philox4x32-10 (Salmon et al., SC 2011) and the normals made from it.
//
// The noise of a row is a pure function of (seed, offset, row): it needs no memory, does not depend
// on how a kernel is launched, and is drawn again in backward. grad.ops.reference.jitter_noise is the
// specification of which word serves what.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/scalar.h"

namespace grad {

// What jitter does, by value; `state` is null where there is none.
struct JitterArgs {
  const int64_t* state;  // (2,) seed, offset; device memory on CUDA, so that graph replays see new ones
  float probability;
  float std;
  bool per_batch;            // one coin for all rows
  const int64_t* first_row;  // (1,) what row 0 is counted as, for a part of more rows; null: 0
};

struct Words {
  uint32_t w[4];
};

// The keys of the rounds: the seed's halves, each moved on by a constant of its own every round.
struct PhiloxKey {
  uint32_t k[2];

  GRAD_HOST_DEVICE explicit PhiloxKey(uint64_t seed)
      : k{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)} {}

  GRAD_HOST_DEVICE void advance() {
    k[0] += 0x9E3779B9u;
    k[1] += 0xBB67AE85u;
  }
};

constexpr int kPhiloxRounds = 10;

GRAD_HOST_DEVICE Words philox_counter(uint64_t offset, uint64_t row) {
  return {{static_cast<uint32_t>(offset), static_cast<uint32_t>(offset >> 32), static_cast<uint32_t>(row),
           static_cast<uint32_t>(row >> 32)}};
}

GRAD_HOST_DEVICE Words philox_round(const Words& c, const PhiloxKey& key) {
  const uint64_t product0 = uint64_t{c.w[0]} * 0xD2511F53u;
  const uint64_t product1 = uint64_t{c.w[2]} * 0xCD9E8D57u;
  return {{static_cast<uint32_t>(product1 >> 32) ^ c.w[1] ^ key.k[0], static_cast<uint32_t>(product1),
           static_cast<uint32_t>(product0 >> 32) ^ c.w[3] ^ key.k[1], static_cast<uint32_t>(product0)}};
}

GRAD_HOST_DEVICE Words philox(uint64_t seed, uint64_t offset, uint64_t row) {
  Words c = philox_counter(offset, row);
  PhiloxKey key(seed);
  for (int round = 0; round < kPhiloxRounds; ++round, key.advance()) c = philox_round(c, key);
  return c;
}

// The upper 24 bits as a float in [0, 1).
GRAD_HOST_DEVICE float uniform(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// Two independent standard normals from two words (Box and Muller, 1958).
GRAD_HOST_DEVICE void box_muller(uint32_t first, uint32_t second, float* normals) {
  const float radius = sqrtf(-2.0f * logf(uniform(first) + 0x1p-24f));
  const float turn = uniform(second);
#ifdef __CUDA_ARCH__
  float sine, cosine;
  sincospif(2 * turn, &sine, &cosine);
#else
  const float angle = 6.283185307179586f * turn;
  const float sine = sinf(angle), cosine = cosf(angle);
#endif
  normals[0] = radius * cosine;
  normals[1] = radius * sine;
}

// Writes the noise of one row, D values.
template <int D>
GRAD_HOST_DEVICE void jitter_noise(const JitterArgs& jitter, int64_t row, float* noise) {
  const uint64_t seed = static_cast<uint64_t>(jitter.state[0]);
  const uint64_t offset = static_cast<uint64_t>(jitter.state[1]);
  const uint64_t place = static_cast<uint64_t>(row + (jitter.first_row ? *jitter.first_row : 0));
  const Words words = philox(seed, offset, place);
  const uint32_t coin = jitter.per_batch ? philox(seed, offset, ~uint64_t{0}).w[0] : words.w[0];
  const bool chosen = uniform(coin) < jitter.probability;
  float normals[4] = {};
  if (chosen) {
    box_muller(words.w[2], words.w[3], normals);
    if (D > 2) {
      const Words more = philox(seed, offset + 1, place);
      box_muller(more.w[0], more.w[1], normals + 2);
    }
  }
  // project adds this to the same activation forward and backward, and has to find the same cell.
  for (int j = 0; j < D; ++j) noise[j] = separate_product(normals[j], jitter.std);
}

}  // namespace grad
