// Packs many weights at once on the thread pool. Small experts alone would not keep the threads busy, so tiles of
// several matrices form one work list.
#pragma once

#include <vector>

#include "bindings/tensor_source.h"
#include "core/cancel.h"
#include "core/thread_pool.h"

namespace smoe {

class PackList {
 public:
  // Both pointers must stay valid until run(). Empty sources leave their target empty.
  void add(const TensorSource& source, PackedMatrix* out);
  void add(const TensorSource& source, std::vector<float>* out);

  // Polls `cancel` and checks files before each batch.
  Status run(ThreadPool& pool, const CancelFlag* cancel);

 private:
  struct Matrix {
    const TensorSource* source;
    PackedMatrix* out;
  };
  struct Vector {
    const TensorSource* source;
    std::vector<float>* out;
  };
  std::vector<Matrix> matrices_;
  std::vector<Vector> vectors_;
};

}  // namespace smoe
