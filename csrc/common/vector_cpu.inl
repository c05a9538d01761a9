// Vectors of the accumulation type for one instruction set; included by for_each_isa.h inside that
// set's namespace. A kernel writes its loop body once: for_columns runs it on whole vectors, then on
// shorter ones and scalars for the columns that are left.

template <typename A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));

template <typename E, int kCount>
struct VectorType {
  typedef E Type __attribute__((vector_size(sizeof(E) * kCount)));
};
template <typename E, int kCount>
using VectorOf = typename VectorType<E, kCount>::Type;

// kCount adjacent columns in accumulation type A; kCount 1 is a plain scalar.
template <typename A, int kCount>
struct Pack {
  using Value = VectorOf<A, kCount>;

  static Value load(const A* place) {
    Value value;
    std::memcpy(&value, place, sizeof(value));
    return value;
  }

  // The bit arithmetic of scalar.h, on vectors.
  static Value load(const BFloat16* place) { return as_value(load_bits(place) << 16); }

  static Value load(const Half* place) {
    const Bits half = load_bits(place);
    const Bits magnitude = (half & 0x7FFFu) << 13;
    const Bits scaled = as_bits(as_value(magnitude) * 0x1p112f);
    const Bits special = magnitude | 0x7F800000u;
    return as_value(((half & 0x8000u) << 16) | (magnitude >= 0x0F800000u ? special : scaled));
  }

  static void store(A* place, Value value) { std::memcpy(place, &value, sizeof(value)); }

  static void store(BFloat16* place, Value value) {
    const Bits bits = as_bits(value);
    const Bits rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    const Bits nan = (bits >> 16) | 0x40u;
    store_bits(place, (bits & 0x7FFFFFFFu) > 0x7F800000u ? nan : rounded);
  }

  static void store(Half* place, Value value) {
    const Bits bits = as_bits(value);
    const Bits magnitude = bits & 0x7FFFFFFFu;
    const Bits normal = (magnitude - 0x38000000u + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    const Bits subnormal = as_bits(as_value(magnitude) + 0.5f) - 0x3F000000u;
    Bits half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x477FF000u ? half * 0 + 0x7C00u : half;
    half = magnitude > 0x7F800000u ? half * 0 + 0x7E00u : half;
    store_bits(place, half | ((bits >> 16) & 0x8000u));
  }

 private:
  using Bits = VectorOf<uint32_t, kCount>;
  using ShortBits = VectorOf<uint16_t, kCount>;

  static Bits as_bits(Value value) { return reinterpret_cast<Bits>(value); }
  static Value as_value(Bits bits) { return reinterpret_cast<Value>(bits); }

  template <typename T>
  static Bits load_bits(const T* place) {
    ShortBits bits;
    std::memcpy(&bits, place, sizeof(bits));
    return __builtin_convertvector(bits, Bits);
  }

  template <typename T>
  static void store_bits(T* place, Bits bits) {
    const ShortBits narrow = __builtin_convertvector(bits, ShortBits);
    std::memcpy(place, &narrow, sizeof(narrow));
  }
};

template <typename A>
struct Pack<A, 1> {
  using Value = A;
  template <typename T>
  static Value load(const T* place) {
    return grad::load(*place);
  }
  template <typename T>
  static void store(T* place, Value value) {
    grad::store(place, value);
  }
};

// The value, loaded once. Where several products need it, compilers rather load it for each of them, which
// costs no instruction, but as much of the first-level cache's time.
template <typename Value>
inline __attribute__((always_inline)) Value in_register(Value value) {
#if defined(__x86_64__) && !defined(__clang__)  // which has no such operands for vectors
  asm("" : "+v"(value));
#endif
  return value;
}

// Calls body(Pack<A, count>{}, c) with parts of the columns from left to right: whole vectors, then at
// most one of half a vector, then scalars. Each part is one more copy of the body to compile.
template <typename A, typename Body>
inline __attribute__((always_inline)) void for_columns(int64_t columns, Body&& body) {
  int64_t c = 0;
  for (; c + kLanes<A> <= columns; c += kLanes<A>) body(Pack<A, kLanes<A>>{}, c);
  if constexpr (kLanes<A> > 4) {
    constexpr int kHalf = kLanes<A> / 2;
    if (columns - c >= kHalf) {
      body(Pack<A, kHalf>{}, c);
      c += kHalf;
    }
  }
  for (; c < columns; ++c) body(Pack<A, 1>{}, c);
}

template <typename Body, int... kIndex>
inline __attribute__((always_inline)) void unrolled(Body&& body, std::integer_sequence<int, kIndex...>) {
  (body(std::integral_constant<int, kIndex>{}), ...);
}

// Calls body(0) ... body(kCount - 1) with constants, so that the arrays it indexes can lie in registers.
template <int kCount, typename Body>
inline __attribute__((always_inline)) void unrolled(Body&& body) {
  unrolled(body, std::make_integer_sequence<int, kCount>{});
}

// The sum of a vector's lanes, by halves.
template <typename A, int kCount>
inline A sum_of_lanes(VectorOf<A, kCount> value) {
  if constexpr (kCount == 2) {
    return value[0] + value[1];
  } else {
    VectorOf<A, kCount / 2> halves[2];
    std::memcpy(halves, &value, sizeof(value));
    return sum_of_lanes<A, kCount / 2>(halves[0] + halves[1]);
  }
}

// A vector with as many zeros behind it. Not through memory: the processor would wait for the short store
// before it could load the whole.
template <typename A, int kCount, int... kLane>
inline VectorOf<A, 2 * kCount> with_zeros(VectorOf<A, kCount> value, std::integer_sequence<int, kLane...>) {
#if __has_builtin(__builtin_shufflevector)
  return __builtin_shufflevector(value, VectorOf<A, kCount>{}, kLane...);
#else
  VectorOf<A, 2 * kCount> twice = {};
  std::memcpy(&twice, &value, sizeof(value));
  return twice;
#endif
}

template <typename A, int kTo, int kCount>
inline VectorOf<A, kTo> widened(VectorOf<A, kCount> value) {
  if constexpr (kCount == kTo) {
    return value;
  } else {
    constexpr auto kLanesOfTwo = std::make_integer_sequence<int, 2 * kCount>{};
    return widened<A, kTo, 2 * kCount>(with_zeros<A, kCount>(value, kLanesOfTwo));
  }
}

// A running sum over columns: one partial sum a lane, and one for the scalars that are left.
template <typename A>
class ColumnSum {
 public:
  void add(A value) { rest_ += value; }

  template <typename Value>
  void add(Value value) {
    lanes_ += widened<A, kLanes<A>, sizeof(Value) / sizeof(A)>(value);
  }

  A total() const { return sum_of_lanes<A, kLanes<A>>(lanes_) + rest_; }

 private:
  VectorOf<A, kLanes<A>> lanes_ = {};
  A rest_ = 0;
};

// Values rounded up to whole vectors, for arrays that replace_by_tanh works on.
template <typename A>
constexpr int padded(int count) {
  return (count + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// tanh x = sign(x) (1 - 2 / (e^y + 1)) with y = 2 |x|, of which more than 20 makes no difference.
// With n = round(y / ln 2), e^y = 2^n e^r for r = y - n ln 2, |r| < 0.35, by the Taylor series up to r^7
// (relative error 5e-9). The absolute error is below 2e-7.
inline VectorOf<float, kLanes<float>> tanh_of(VectorOf<float, kLanes<float>> x) {
  using Value = VectorOf<float, kLanes<float>>;
  using Bits = VectorOf<uint32_t, kLanes<float>>;
  const Bits sign = reinterpret_cast<Bits>(x) & 0x80000000u;
  const Value twice = reinterpret_cast<Value>(reinterpret_cast<Bits>(x) & 0x7FFFFFFFu) * 2.0f;
  const Value y = twice > 20.0f ? Value{} + 20.0f : twice;  // NaN stays
  const Value finite = y == y ? y : Value{};
  const auto n = __builtin_convertvector(finite * 1.44269504f + 0.5f, VectorOf<int, kLanes<float>>);
  const Value steps = __builtin_convertvector(n, Value);
  const Value r = (y - steps * 0.693359375f) + steps * 2.12194440e-4f;  // ln 2 in two parts
  Value series = r * (1.0f / 5040) + 1.0f / 720;
  series = series * r + 1.0f / 120;
  series = series * r + 1.0f / 24;
  series = series * r + 1.0f / 6;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const Value power = reinterpret_cast<Value>(reinterpret_cast<Bits>(n + 127) << 23);  // 2^n
  const Value size = 1.0f - 2.0f / (series * power + 1.0f);
  return reinterpret_cast<Value>((reinterpret_cast<Bits>(size) & 0x7FFFFFFFu) | sign);
}

// values[i] = tanh(values[i]) for i < count; the array has room for padded(count).
inline void replace_by_tanh(float* values, int count) {
  for (int i = 0; i < count; i += kLanes<float>) {
    Pack<float, kLanes<float>>::store(values + i, tanh_of(Pack<float, kLanes<float>>::load(values + i)));
  }
}

inline void replace_by_tanh(double* values, int count) {
  for (int i = 0; i < count; ++i) values[i] = std::tanh(values[i]);
}
