// Faults by kind and place, each with the first case, block and thread that had it.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <tuple>

#include "state.h"

namespace emulate {

State state;

namespace {

std::vector<Fault> found;
std::map<std::tuple<std::string, std::string, const void*>, size_t> places;

std::string text_of(const char* what, unsigned x, unsigned y) {
  return std::string(what) + " (" + std::to_string(x) + ", " + std::to_string(y) + ")";
}

}  // namespace

std::string source_of(const void* pc) {
  char command[200];
  std::snprintf(command, sizeof(command), "addr2line -i -e /proc/%d/exe %p 2>/dev/null",
                static_cast<int>(getpid()),
                static_cast<const void*>(static_cast<const char*>(pc) - 1));  // in the call, not behind it
  std::string where;
  if (FILE* lines = popen(command, "r")) {
    char line[500];
    while (std::fgets(line, sizeof(line), lines)) {
      std::string place = line;
      if (place.rfind(EMULATE_ROOT, 0) != 0 || place.find("/emulate/toolkit/") != std::string::npos ||
          place.find("/emulate/emulator/") != std::string::npos) {
        continue;
      }
      const size_t begin = std::strlen(EMULATE_ROOT);
      place = place.substr(begin, place.find_first_of(" \n") - begin);
      where += (where.empty() ? "" : ", from ") + place;
    }
    pclose(lines);
  }
  return where.empty() ? "no line of a kernel" : where;
}

std::string last_barrier() {
  const std::string file = state.barrier_file;
  const bool is_ours = file.rfind(EMULATE_ROOT, 0) == 0;
  return (is_ours ? file.substr(std::strlen(EMULATE_ROOT)) : file) + ":" + std::to_string(state.barrier_line);
}

void fault(const std::string& kind, const void* pc, const std::string& detail) {
  const auto [at, is_new] = places.try_emplace({kind, state.kernel, pc}, found.size());
  if (!is_new) {
    ++found[at->second].count;
    return;
  }
  const char* orders[] = {"ascending", "descending", "shuffled"};
  std::string where;
  if (pc) {
    where = source_of(pc);
  } else if (state.in_kernel) {
    where = "last barrier " + last_barrier();
  }
  found.push_back({kind, detail, state.kernel, where, state.case_name,
                   text_of("block", blockIdx.x, blockIdx.y) + ", " +
                       text_of("thread", threadIdx.x, threadIdx.y) + ", threads " +
                       orders[static_cast<int>(state.order)],
                   1});
}

const std::vector<Fault>& faults() { return found; }

void forget_faults() {
  found.clear();
  places.clear();
}

void print_faults() {
  for (const Fault& f : found) {
    std::printf("fault: %s%s%s\n  in %s%s%s\n  %s\n  %s, %lld times\n", f.kind.c_str(),
                f.detail.empty() ? "" : ": ", f.detail.c_str(), f.kernel.c_str(), f.where.empty() ? "" : ", ",
                f.where.c_str(), f.case_name.c_str(), f.thread.c_str(), static_cast<long long>(f.count));
  }
  std::fflush(stdout);
}

void set_order(Order order, uint32_t seed) {
  state.order = order;
  state.random.seed(seed);
}
void set_block_limit(size_t blocks) { state.block_limit = blocks; }
void set_case(const std::string& description) { state.case_name = description; }
const Totals& totals() { return state.totals; }

}  // namespace emulate
