// The mode that counts what a profiler would: a line of JSON for each counted.
//
// A request is one access instruction of a warp. Lanes run one after the other here, so that a request is put
// together afterwards: what the lanes of a warp did at the same place of the program, the same time since the
// warp last met, at an exchange or a barrier.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_map>
#include <vector>

#include "arena.h"
#include "observer.h"
#include "state.h"

extern "C" const char __executable_start, etext;

namespace emulate {

namespace {

constexpr size_t kSector = 32, kBankBytes = 4, kBanks = 32;

Arena device_arena("device", size_t{16} << 30, kDeviceAlignment, kDeviceAlignment);
Arena shared_arena("shared", size_t{1} << 20, kSharedAlignment, kSharedAlignment);

// What the requests of one kind come to.
struct Requests {
  int64_t requests = 0, bytes = 0;
  int64_t sectors = 0;     // of global memory, each counted once a request
  int64_t wavefronts = 0;  // of shared memory: passes, as a bank gives one word in each
  int64_t least = 0;       // wavefronts without conflicts
  void add(const Requests& more) {
    requests += more.requests;
    bytes += more.bytes;
    sectors += more.sectors;
    wavefronts += more.wavefronts;
    least += more.least;
  }
};

// Sectors that were touched in a counted.
class Sectors {
 public:
  Sectors() : words_(map_pages<uint64_t>(device_arena.size() / kSector / 64)) {}
  void add(size_t sector) {
    uint64_t& word = words_[sector / 64];
    const uint64_t bit = uint64_t{1} << sector % 64;
    count_ += !(word & bit);
    word |= bit;
  }
  int64_t count() const { return count_; }
  void clear() {
    std::fill_n(words_, device_arena.used() / kSector / 64 + 1, 0);
    count_ = 0;
  }

 private:
  uint64_t* words_;
  int64_t count_ = 0;
};

struct Entry {
  uint64_t key;  // the place in the program, and which time it is there
  size_t offset;
  uint16_t size;
  Access access;
  bool is_shared;
};

// The times that a lane was at a place since its warp last met.
struct Visits {
  uint32_t meeting, count;
};

struct Counts {
  std::string kernel;
  dim3 grid, block;
  size_t dynamic_shared = 0;
  int64_t blocks = 0, barriers = 0, exchanges = 0, shuffles = 0, warp_barriers = 0;
  Requests of[2][3];  // global or shared; read, written, atomic
  std::unordered_map<size_t, int64_t> atomics_at;
  int64_t most_in_a_request = 0;
};

Counts counted;
Sectors read, written;
std::vector<Entry> entries[1024 / kWarp];
std::vector<Visits> visits[1024];  // by thread and place
uint32_t meetings[1024 / kWarp];
std::vector<uint32_t> place_numbers;  // by offset in the program
std::vector<const void*> places;
std::vector<Requests> of_places;

uint32_t number_of(const void* pc) {
  if (place_numbers.empty()) place_numbers.resize(&etext - &__executable_start);
  uint32_t& number = place_numbers[static_cast<const char*>(pc) - &__executable_start];
  if (number == 0) {
    places.push_back(pc);
    of_places.emplace_back();
    number = static_cast<uint32_t>(places.size());
  }
  return number - 1;
}

template <typename Iterator>
Requests global_request(Iterator begin, Iterator end) {
  Requests request;
  std::vector<size_t> sectors;
  for (auto e = begin; e != end; ++e) {
    request.bytes += e->size;
    const size_t last = (e->offset + e->size - 1) / kSector;
    for (size_t sector = e->offset / kSector; sector <= last; ++sector) sectors.push_back(sector);
  }
  std::sort(sectors.begin(), sectors.end());
  sectors.erase(std::unique(sectors.begin(), sectors.end()), sectors.end());
  for (const size_t sector : sectors) {
    if (begin->access != Access::kWrite) read.add(sector);
    if (begin->access != Access::kRead) written.add(sector);
  }
  request.sectors = static_cast<int64_t>(sectors.size());
  return request;
}

// A wavefront serves as many lanes as have 128 bytes together; lanes with the same word share it.
template <typename Iterator>
Requests shared_request(Iterator begin, Iterator end) {
  Requests request;
  const int lanes = begin->size <= 4 ? 32 : begin->size <= 8 ? 16 : 8;
  for (auto group = begin; group != end;) {
    const auto group_end = end - group > lanes ? group + lanes : end;
    std::vector<size_t> words;
    for (auto e = group; e != group_end; ++e) {
      request.bytes += e->size;
      const size_t last = (e->offset + e->size - 1) / kBankBytes;
      for (size_t word = e->offset / kBankBytes; word <= last; ++word) words.push_back(word);
    }
    std::sort(words.begin(), words.end());
    words.erase(std::unique(words.begin(), words.end()), words.end());
    int64_t in_bank[kBanks] = {}, most = 0;
    for (const size_t word : words) most = std::max(most, ++in_bank[word % kBanks]);
    request.wavefronts += most;
    ++request.least;
    group = group_end;
  }
  return request;
}

template <typename Iterator>
void count_atomics(Iterator begin, Iterator end) {
  std::unordered_map<size_t, int64_t> here;
  for (auto e = begin; e != end; ++e) {
    ++counted.atomics_at[e->offset];
    counted.most_in_a_request = std::max(counted.most_in_a_request, ++here[e->offset]);
  }
}

void close_requests(int warp) {
  std::vector<Entry>& list = entries[warp];
  // By place and time; lanes keep their order, which is ascending.
  std::stable_sort(list.begin(), list.end(), [](const Entry& a, const Entry& b) { return a.key < b.key; });
  for (auto begin = list.begin(); begin != list.end();) {
    const auto end = std::find_if(begin, list.end(), [&](const Entry& e) { return e.key != begin->key; });
    Requests request = begin->is_shared ? shared_request(begin, end) : global_request(begin, end);
    request.requests = 1;
    if (begin->access == Access::kAtomic) count_atomics(begin, end);
    counted.of[begin->is_shared][static_cast<int>(begin->access)].add(request);
    of_places[begin->key >> 32].add(request);
    begin = end;
  }
  list.clear();
  ++meetings[warp];
}

void print_requests(const char* name, const Requests& r, bool is_shared) {
  std::printf("\"%s\": {\"requests\": %lld, \"bytes\": %lld, ", name, static_cast<long long>(r.requests),
              static_cast<long long>(r.bytes));
  if (is_shared) {
    std::printf("\"wavefronts\": %lld, \"conflicts\": %lld}", static_cast<long long>(r.wavefronts),
                static_cast<long long>(r.wavefronts - r.least));
  } else {
    std::printf("\"sectors\": %lld, \"sectors_per_request\": %.3f}", static_cast<long long>(r.sectors),
                r.requests ? static_cast<double>(r.sectors) / static_cast<double>(r.requests) : 0.0);
  }
}

// The lines of the sources, where EMULATE_LINES is set: finding them takes a while.
void print_lines() {
  std::printf(", \"lines\": [");
  const char* comma = "";
  for (size_t i = 0; i < places.size(); ++i) {
    const Requests& r = of_places[i];
    if (r.requests == 0) continue;
    std::printf(
        "%s{\"line\": \"%s\", \"requests\": %lld, \"bytes\": %lld, \"sectors\": %lld, "
        "\"wavefronts\": %lld}",
        comma, source_of(places[i]).c_str(), static_cast<long long>(r.requests),
        static_cast<long long>(r.bytes), static_cast<long long>(r.sectors),
        static_cast<long long>(r.wavefronts));
    comma = ", ";
  }
  std::printf("]");
}

}  // namespace

void on_access(const void* place, size_t size, Access access, const void* pc, bool) {
  if (!state.in_kernel) return;
  const bool is_shared = shared_arena.holds(place);
  if (!is_shared && !device_arena.holds(place)) return;  // a thread's own memory
  ++state.totals.accesses;
  const uint32_t number = number_of(pc);
  std::vector<Visits>& own = visits[state.thread];
  if (own.size() <= number) own.resize(places.size() + 64);
  Visits& at = own[number];
  const int warp = state.thread / kWarp;
  if (at.meeting != meetings[warp]) at = {meetings[warp], 0};
  entries[warp].push_back({uint64_t{number} << 32 | at.count++,
                           (is_shared ? shared_arena : device_arena).offset(place),
                           static_cast<uint16_t>(size), access, is_shared});
}

void on_launch(const char* kernel, const Settings& settings) {
  counted = Counts{};
  counted.kernel = kernel;
  counted.grid = settings.grid;
  counted.block = settings.block;
  counted.dynamic_shared = settings.shared;
  read.clear();
  written.clear();
  std::fill(of_places.begin(), of_places.end(), Requests{});
}

void on_barrier() {
  ++counted.barriers;
  for (unsigned t = 0; t < blockDim.x * blockDim.y * blockDim.z; t += kWarp) close_requests(t / kWarp);
}

void on_exchange(int warp, Exchange kind, size_t bytes) {
  ++counted.exchanges;
  if (kind == Exchange::kSync) {
    ++counted.warp_barriers;
  } else {
    counted.shuffles += (bytes + 3) / 4;
  }
  close_requests(warp);
}

void on_block_end() {
  ++counted.blocks;
  for (int w = 0; w < 1024 / kWarp; ++w) close_requests(w);
}

void on_launch_end(size_t declared_shared) {
  const auto number = [](int64_t n) { return static_cast<long long>(n); };
  std::printf("{\"case\": \"%s\", \"kernel\": \"%s\", \"grid\": [%u, %u, %u], \"block\": [%u, %u, %u], ",
              state.case_name.c_str(), counted.kernel.c_str(), counted.grid.x, counted.grid.y, counted.grid.z,
              counted.block.x, counted.block.y, counted.block.z);
  std::printf("\"blocks_run\": %lld, \"dynamic_shared\": %zu, \"declared_shared\": %zu, \"global\": {",
              number(counted.blocks), counted.dynamic_shared, declared_shared);
  const char* names[] = {"read", "written", "atomic"};
  for (int i = 0; i < 3; ++i) {
    print_requests(names[i], counted.of[0][i], false);
    std::printf(", ");
  }
  std::printf("\"distinct_sectors_read\": %lld, \"distinct_sectors_written\": %lld}, \"shared\": {",
              number(read.count()), number(written.count()));
  print_requests(names[0], counted.of[1][0], true);
  std::printf(", ");
  print_requests(names[1], counted.of[1][1], true);
  int64_t most = 0, operations = 0;
  for (const auto& [offset, count] : counted.atomics_at) {
    most = std::max(most, count);
    operations += count;
  }
  std::printf("}, \"barriers\": %lld, \"shuffles\": %lld, \"warp_barriers\": %lld, ",
              number(counted.barriers), number(counted.shuffles), number(counted.warp_barriers));
  std::printf(
      "\"atomics\": {\"operations\": %lld, \"most_at_one_address\": %lld, \"most_in_a_request\": %lld}",
      number(operations), number(most), number(counted.most_in_a_request));
  if (std::getenv("EMULATE_LINES")) print_lines();
  std::printf("}\n");
}

unsigned char* new_device_memory(size_t bytes, size_t shift) { return device_arena.take(bytes, shift); }
void delete_device_memory(unsigned char*, size_t, size_t) { device_arena.give_back(); }
unsigned char* new_shared_memory(size_t bytes) { return shared_arena.take(bytes, 0); }
void delete_shared_memory() { shared_arena.give_back_all(); }
void on_initialised(const void*, size_t) {}
void on_uninitialised(const void*, size_t) {}

}  // namespace emulate
