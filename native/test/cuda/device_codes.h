// Matrices of codes on the device of a test.
#pragma once

#include "coded_matrix.h"
#include "gpu.h"

namespace smoe::cu::test {

class DeviceCodes {
 public:
  // The view stays valid as long as this object.
  AtomMatrix upload(Gpu& gpu, const CodeAtoms& codes, const char* name) {
    std::vector<AtomMatrix> planes;
    for (const CodeAtoms& plane : codes.planes) planes.push_back(upload(gpu, plane, name));
    atoms_.push_back(gpu.constant(codes.atoms, name));
    scales_.push_back(gpu.constant(codes.scales, "scales"));
    zeros_.push_back(gpu.constant(codes.zeros, "zeros"));
    AtomMatrix matrix = codes.view(atoms_.back().data(), scales_.back().data(), zeros_.back().data());
    if (planes.empty()) return matrix;
    planes_.push_back(gpu.constant(planes, "planes"));
    matrix.planes = planes_.back().data();
    matrix.plane_count = static_cast<int>(planes.size());
    return matrix;
  }

 private:
  std::vector<emu::Buffer<U32x4>> atoms_;
  std::vector<emu::Buffer<unsigned char>> scales_, zeros_;
  std::vector<emu::Buffer<AtomMatrix>> planes_;
};

}  // namespace smoe::cu::test
