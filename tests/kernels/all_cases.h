// Every case of one pair of types.
#pragma once

#include "interpolate_cases.h"
#include "lattice_cases.h"
#include "project_cases.h"
#include "refine_cases.h"

template <typename Device, typename T, typename G>
void all_cases(Random& random, Choice choice) {
  lattice_cases(random);
  empty_interpolate_cases<Device, T, G>(random);
  empty_project_cases<Device, T, G>(random);
  empty_refine_cases<Device, T, G>(random);
  limit_interpolate_cases<Device, T, G>(random);
  limit_project_cases<Device, T, G>(random);
  refine_cases<Device, T, G>(random, choice);
  interpolate_cases<Device, T, G>(random, choice);
  project_cases<Device, T, G>(random, choice);
}
