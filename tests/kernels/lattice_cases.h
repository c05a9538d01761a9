// Where coordinates lie in grids of as many cells as there may be, which no memory holds.
#pragma once

#include <initializer_list>
#include <string>

#include "checker.h"
#include "common/lattice.h"
#include "oracle.h"
#include "shapes.h"

template <int D>
void lattice_case(Random& random, const grad::Lattice& lattice) {
  std::string sizes;
  for (int j = 0; j < D; ++j) sizes += " " + std::to_string(lattice.size[j]);
  const Checker checker = Checker::of<double>("cells of a grid of" + sizes);
  for (int i = 0; i < 300; ++i) {
    double coords[4] = {};
    for (int j = 0; j < D; ++j) {
      coords[j] = random_coordinate(random, lattice.size[j], lattice.align_corners);
    }
    if (is_ambiguous<double>(coords, D, lattice, 0)) continue;
    const grad::Cell<double, D> cell = grad::locate<double, D>(coords, lattice);
    const int64_t key = grad::cell_key(cell, lattice);
    checker.require(key >= 0 && key < grad::key_count<D>(lattice), "a key out of range", i);
    const Place place = place_of(coords, D, lattice);
    auto corner = place.corners.begin();
    for (int k = 0; k < 1 << D; ++k) {
      const int index = grad::corner_index(cell, lattice, k);
      // The oracle leaves out corners beside the grid; those of weight 0 at its border are there.
      if (index < 0) continue;
      while (corner != place.corners.end() && corner->cell != index) ++corner;
      checker.require(corner != place.corners.end(), "a corner that is none", i);
    }
  }
  ++cases_passed();
}

inline void lattice_cases(Random& random) {
  for (const bool align_corners : {false, true}) {
    for (const bool border : {false, true}) {
      lattice_case<1>(random, {{static_cast<int>(grad::kMaxCells), 1, 1, 1}, align_corners, border});
      lattice_case<2>(random, {{65535, 32768, 1, 1}, align_corners, border});
      lattice_case<3>(random, {{1290, 1290, 1290, 1}, align_corners, border});
      lattice_case<4>(random, {{1, 46340, 1, 46340}, align_corners, border});
    }
  }
}
