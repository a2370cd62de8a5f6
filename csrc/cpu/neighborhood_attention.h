// How the CPU kernel of neighborhood_attention is scheduled; also what the self-check runs.
#pragma once

#include <cstdint>

#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/neighborhood_attention_kernel.h"

namespace ltx2rt::cpu {

// The loops for a dtype and a head size.
const NeighborhoodLoops& neighborhood_loops(const NeighborhoodKernel& kernel, FloatType type, int64_t head_size);

// Sizes and scratch. Needs of the arguments the sizes alone.
struct NeighborhoodPlan {
  // slots: frames that a query sees at most.
  NeighborhoodPlan(const NeighborhoodArgs& args, int64_t slots, int threads, const NeighborhoodKernel& kernel,
                   const NeighborhoodLoops& loops);

  int threads;
  int64_t slots;
  LaneBox box, rest;     // of queries; for frames that are left over or see too much that differs
  int64_t block_frames;  // of queries, at most
  int64_t kept_frames;   // of keys
  int64_t strip_rows;    // rows of queries whose keys are kept
  int64_t round_heads;   // heads whose keys are kept
  int64_t plane_floats;  // of a frame and head
  int64_t head_stride;   // floats from head to head
  int64_t planes, kept, missing, seen;
  int64_t work, work_bytes;  // of each thread
  ScratchLayout layout;
};

class NeighborhoodSchedule {
 public:
  // key_frames: (frames, slots).
  NeighborhoodSchedule(const NeighborhoodArgs& args, const NeighborhoodPlan& plan, const Scratch& scratch,
                       const NeighborhoodLoops& loops, const int32_t* key_frames)
      : args_(args), plan_(plan), scratch_(scratch), loops_(loops), key_frames_(key_frames) {}

  void run() const;

 private:
  void attend_strip(int64_t batch, int64_t first_head, int64_t heads, int64_t first_row, int64_t end_row) const;
  int64_t find_seen(int64_t first, int64_t frames) const;
  bool make_room(int64_t count) const;
  void pack_missing(const PackedPlane& plane, int64_t batch, int64_t first_head, int64_t heads) const;
  void attend(const PackedPlane& plane, const LaneBox& box, const NeighborhoodBlock& all, int64_t heads,
              int64_t count) const;
  float* work_of(int worker) const { return scratch_.at<float>(plan_.work + worker * plan_.work_bytes); }

  const NeighborhoodArgs& args_;
  const NeighborhoodPlan& plan_;
  const Scratch& scratch_;
  const NeighborhoodLoops& loops_;
  const int32_t* key_frames_;
};

}  // namespace ltx2rt::cpu
