// Memory that grows and is never given back before its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace tritium {

class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  // At least `size` bytes, aligned to cache lines; what an earlier call returned is lost when it grows.
  char* reserve(int64_t size) {
    if (size > size_) {
      release();
      memory_ = static_cast<char*>(::operator new(static_cast<size_t>(size), kAlignment));
      size_ = size;
    }
    return memory_;
  }

 private:
  static constexpr std::align_val_t kAlignment{64};

  void release() {
    if (memory_ != nullptr) ::operator delete(memory_, kAlignment);
    memory_ = nullptr;
    size_ = 0;
  }

  char* memory_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace tritium
