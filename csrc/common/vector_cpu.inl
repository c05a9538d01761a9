// Vectors of the accumulation type for one instruction set; included by for_each_isa.h inside that
// set's namespace. A kernel writes its loop body once: for_columns runs it on whole vectors, then on
// the scalars that are left.

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

// Calls body(Pack<A, lanes>{}, c) for whole vectors from column 0 on, then body(Pack<A, 1>{}, c).
template <typename A, typename Body>
inline __attribute__((always_inline)) void for_columns(int64_t columns, Body&& body) {
  int64_t c = 0;
  for (; c + kLanes<A> <= columns; c += kLanes<A>) body(Pack<A, kLanes<A>>{}, c);
  for (; c < columns; ++c) body(Pack<A, 1>{}, c);
}

// A running sum over columns: one partial sum a lane, and one for the scalars that are left.
template <typename A>
class ColumnSum {
 public:
  void add(VectorOf<A, kLanes<A>> value) { lanes_ += value; }
  void add(A value) { rest_ += value; }
  A total() const {
    A sum = rest_;
    for (int i = 0; i < kLanes<A>; ++i) sum += lanes_[i];
    return sum;
  }

 private:
  VectorOf<A, kLanes<A>> lanes_ = {};
  A rest_ = 0;
};
