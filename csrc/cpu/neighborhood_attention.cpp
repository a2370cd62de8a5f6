// CPU evaluation of neighborhood_attention: what is packed when, and which thread does which blocks of queries.
//
// The planes of the frames that a few frames of queries see are kept while the next queries see them too: each is packed
// once for all blocks, and how many there are depends on the windows, not on the length of the clip.
#include "csrc/neighborhood_attention.h"

#include <algorithm>
#include <cstring>

#include "csrc/ceil_div.h"
#include "csrc/cpu/amx.h"
#include "csrc/cpu/dispatch.h"
#include "csrc/cpu/neighborhood_attention.h"
#include "csrc/cpu/rows.h"
#include "csrc/cpu/thread_pool.h"

namespace ltx2rt {
namespace cpu {
namespace {

constexpr int64_t kFloat = sizeof(float);
// Floats of the planes that are kept at a time: of several heads where they are small, and of a part of the rows where
// one head has more.
constexpr int64_t kMostPlaneFloats = 12 << 20;

// Keys that a box of queries is multiplied with.
int64_t keys_of(const LaneBox& box, const NeighborhoodArgs& args, int64_t slots, const NeighborhoodLoops& loops) {
  const int64_t rows = args.rows.window + box.rows - 1, columns = args.columns.window + box.columns - 1;
  return (slots + box.frames - 1) * ceil_div(rows, loops.row_unit) * loops.row_unit *
         ceil_div(columns, loops.column_unit) * loops.column_unit;
}

// The box of `lanes` queries that sees fewest keys.
LaneBox best_box(int lanes, const NeighborhoodArgs& args, int64_t slots, const NeighborhoodLoops& loops) {
  LaneBox best{1, 1, lanes};
  for (int frames = 1; frames <= std::min(loops.block_frames, args.frames); frames *= 2) {
    for (int rows = 1; rows * frames <= lanes; rows *= 2) {
      const LaneBox box{frames, rows, lanes / frames / rows};
      if (keys_of(box, args, slots, loops) < keys_of(best, args, slots, loops)) best = box;
    }
  }
  return best;
}

// Planes that hold the windows of query rows [first, end).
PackedPlane plane_of(const WindowAxis& axis, int64_t first, int64_t end, const LaneBox& box) {
  int64_t begin = window_begin(axis, first);
  const int64_t usual = axis.border == Border::replicate ? first : first - axis.window / 2;
  if ((begin - usual) % 2 != 0) --begin;  // elsewhere boxes then begin at even rows
  return {begin, ceil_div(window_end(axis, end - 1) - begin, 2) * 2, box.columns};
}

}  // namespace

NeighborhoodPlan::NeighborhoodPlan(const NeighborhoodArgs& args, int64_t slots, int threads,
                                   const NeighborhoodKernel& kernel, const NeighborhoodLoops& loops)
    : threads(threads), slots(slots) {
  box = best_box(kernel.lanes, args, slots, loops);
  rest = {1, box.frames * box.rows, box.columns};
  // As many boxes behind one another as the clip has frames for.
  block_frames = std::min(loops.block_frames, ceil_div(args.frames, box.frames) * box.frames);
  kept_frames = std::min(args.key_frames, slots + block_frames - 1);

  const int64_t most = std::max<int64_t>(kMostPlaneFloats / kept_frames, 1);
  constexpr int64_t step = kBlockCells;
  strip_rows = ceil_div(args.rows.cells, step) * step;
  const auto floats_of = [&](int64_t rows) {
    // A strip that the window hangs over on both sides has most rows.
    int64_t largest = 0;
    for (int64_t first = 0; first < args.rows.cells; first += rows) {
      const auto plane = plane_of(args.rows, first, std::min(first + rows, args.rows.cells), box);
      largest = std::max(largest, loops.plane_floats(args, plane));
    }
    return largest;
  };
  while (strip_rows > step && floats_of(strip_rows) > most) strip_rows = ceil_div(strip_rows / 2, step) * step;
  plane_floats = floats_of(strip_rows);
  round_heads = std::clamp<int64_t>(most / plane_floats, 1, args.heads);
  head_stride = kept_frames * plane_floats;
  planes = layout.add(round_heads * head_stride * kFloat);
  kept = layout.add(kept_frames * sizeof(int32_t));
  missing = layout.add(kept_frames * sizeof(int32_t));
  seen = layout.add(block_frames * slots * sizeof(SeenFrame));
  work_bytes = ScratchLayout::round_up(loops.work_floats(args, box.columns) * kFloat);
  work = layout.add_slots(threads, work_bytes);
}

const NeighborhoodLoops& neighborhood_loops(const NeighborhoodKernel& kernel, FloatType type, int64_t head_size) {
  constexpr int64_t kTileHead = 64;
  if (type != FloatType::bf16) return kernel.values;
  if (kernel.has_tiles && head_size == kTileHead && tiles_in_use()) return kernel.tiles;
  return kernel.has_pairs ? kernel.pairs : kernel.values;
}

void NeighborhoodSchedule::run() const {
  for (int64_t batch = 0; batch < args_.batch; ++batch) {
    for (int64_t head = 0; head < args_.heads; head += plan_.round_heads) {
      for (int64_t row = 0; row < args_.rows.cells; row += plan_.strip_rows) {
        attend_strip(batch, head, std::min(plan_.round_heads, args_.heads - head), row,
                     std::min(row + plan_.strip_rows, args_.rows.cells));
      }
    }
  }
}

// Frame after frame of the queries of some heads and rows.
void NeighborhoodSchedule::attend_strip(int64_t batch, int64_t first_head, int64_t heads, int64_t first_row,
                                        int64_t end_row) const {
  const PackedPlane plane = plane_of(args_.rows, first_row, end_row, plan_.box);
  auto* kept = scratch_.at<int32_t>(plan_.kept);
  std::fill_n(kept, plan_.kept_frames, -1);
  for (int64_t frame = 0; frame < args_.frames;) {
    LaneBox box = plan_.box;
    // Whole boxes, then what is left over frame by frame.
    int64_t frames = std::min(plan_.block_frames, (args_.frames - frame) / box.frames * box.frames);
    if (frames == 0) {
      box = plan_.rest;
      frames = 1;
    }
    int64_t count = find_seen(frame, frames);
    while (!make_room(count)) {  // their windows are too far apart
      frames = frames > box.frames ? box.frames : 1;
      if (frames < box.frames) box = plan_.rest;
      count = find_seen(frame, frames);
    }
    pack_missing(plane, batch, first_head, heads);
    const NeighborhoodBlock block{.batch = batch,
                                  .head = first_head,
                                  .first_frame = frame,
                                  .frames = static_cast<int>(frames),
                                  .row = first_row,
                                  .end_row = end_row,
                                  .column = 0,
                                  .end_column = args_.columns.cells};
    attend(plane, box, block, heads, count);
    frame += frames;
  }
}

// Lists the frames that queries of [first, first + frames) see. A frame that stands twice in a row is there twice.
int64_t NeighborhoodSchedule::find_seen(int64_t first, int64_t frames) const {
  auto* seen = scratch_.at<SeenFrame>(plan_.seen);
  int64_t count = 0;
  for (int64_t t = 0; t < frames; ++t) {
    const uint32_t bit = 1u << t;
    for (int64_t j = 0; j < plan_.slots; ++j) {
      // Checked before (csrc/checked_index.h). Should the memory have been changed since: the nearest frame.
      const auto last = static_cast<int32_t>(args_.key_frames - 1);
      const int32_t frame = std::min(key_frames_[(first + t) * plan_.slots + j], last);
      if (frame < 0) continue;
      int64_t at = 0;
      while (at < count && (seen[at].frame != frame || (seen[at].seen_by & bit) != 0)) ++at;
      if (at == count) seen[count++] = {frame, -1, 0};
      seen[at].seen_by |= bit;
    }
  }
  return count;
}

// Gives every seen frame a slot, those that are packed already their own; lists in `missing` the slots to be filled.
// False: there are more than slots.
bool NeighborhoodSchedule::make_room(int64_t count) const {
  auto* seen = scratch_.at<SeenFrame>(plan_.seen);
  auto* kept = scratch_.at<int32_t>(plan_.kept);
  auto* missing = scratch_.at<int32_t>(plan_.missing);
  int64_t distinct = 0;
  for (int64_t i = 0; i < count; ++i) {
    bool first = true;
    for (int64_t j = 0; j < i; ++j) first = first && seen[j].frame != seen[i].frame;
    distinct += first;
  }
  if (distinct > plan_.kept_frames) return false;
  for (int64_t i = 0; i < count; ++i) {
    const auto* at = std::find(kept, kept + plan_.kept_frames, seen[i].frame);
    seen[i].slot = at == kept + plan_.kept_frames ? -1 : static_cast<int32_t>(at - kept);
  }
  const auto needed = [&](int32_t slot) {
    for (int64_t i = 0; i < count; ++i)
      if (seen[i].slot == slot) return true;
    return false;
  };
  std::fill_n(missing, plan_.kept_frames, -1);
  int32_t free = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (seen[i].slot >= 0) continue;
    const auto* at = std::find(kept, kept + plan_.kept_frames, seen[i].frame);
    if (at == kept + plan_.kept_frames) {
      while (needed(free)) ++free;
      kept[free] = seen[i].frame;
      missing[free] = seen[i].frame;
      at = kept + free;
    }
    seen[i].slot = static_cast<int32_t>(at - kept);
  }
  return true;
}

void NeighborhoodSchedule::pack_missing(const PackedPlane& plane, int64_t batch, int64_t first_head,
                                        int64_t heads) const {
  const auto* missing = scratch_.at<int32_t>(plan_.missing);
  auto* planes = scratch_.at<float>(plan_.planes);
  const int64_t pairs = plane.rows / 2;
  const auto body = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t slot = i / pairs;
      if (missing[slot] < 0) continue;
      loops_.pack(args_, plane, {batch, missing[slot], first_head, heads}, i % pairs * 2,
                  planes + slot * plan_.plane_floats, plan_.head_stride, work_of(worker));
    }
  };
  parallel_for(plan_.kept_frames * pairs, 1, body, plan_.threads);
}

// Some heads of all cells of `all`, whose head is the first one.
void NeighborhoodSchedule::attend(const PackedPlane& plane, const LaneBox& box, const NeighborhoodBlock& all,
                                  int64_t heads, int64_t count) const {
  const auto* seen = scratch_.at<SeenFrame>(plan_.seen);
  const auto* planes = scratch_.at<float>(plan_.planes);
  const int64_t down = ceil_div(all.end_row - all.row, kBlockCells);
  const int64_t across = ceil_div(all.end_column, kBlockCells);
  const auto body = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t head = i / (down * across);  // in turn, so that its planes stay in the caches
      NeighborhoodBlock block = all;
      block.head += head;
      block.row += i / across % down * kBlockCells;
      block.end_row = std::min(block.row + kBlockCells, all.end_row);
      block.column = i % across * kBlockCells;
      block.end_column = std::min(block.column + kBlockCells, all.end_column);
      loops_.attend(args_, plane, box, block, seen, count, planes + head * plan_.head_stride, plan_.plane_floats,
                    work_of(worker));
    }
  };
  parallel_for(heads * down * across, 1, body, plan_.threads);
}

}  // namespace cpu

namespace {

cpu::CellRows cell_rows(const mx::array& a) {
  return {a.data<char>(), cpu::float_type(a.dtype()), a.strides(0), a.strides(1), a.strides(2), a.strides(3),
          a.strides(4)};
}

cpu::AngleRows angle_rows(const mx::array& table) {
  return {table.data<float>(), int64_t{table.shape(1)} * table.shape(2), table.shape(2)};
}

}  // namespace

int64_t neighborhood_attention_scratch_bytes(const NeighborhoodShape& shape, int threads) {
  if (shape.batch * shape.frames * shape.height * shape.width * shape.key_frames * shape.slots == 0) return 0;
  cpu::NeighborhoodArgs args{};
  args.frames = shape.frames;
  args.key_frames = shape.key_frames;
  args.heads = shape.heads;
  args.head_size = shape.head_size;
  args.rows = {shape.height, shape.window_height, shape.border_height};
  args.columns = {shape.width, shape.window_width, shape.border_width};
  const auto& kernel = cpu::neighborhood_attention_kernel();
  const auto& loops = cpu::neighborhood_loops(kernel, shape.type, shape.head_size);
  return cpu::NeighborhoodPlan(args, shape.slots, threads, kernel, loops).layout.bytes();
}

void NeighborhoodAttention::eval_cpu(const std::vector<mx::array>& inputs, std::vector<mx::array>& outputs) {
  cpu::Evaluation evaluation(*this, inputs, outputs);
  if (evaluation.empty()) return;

  const auto &q = inputs[0], &k = inputs[1], &key_frames = inputs[3];
  cpu::NeighborhoodArgs args{};
  args.batch = q.shape(0);
  args.frames = q.shape(1);
  args.key_frames = k.shape(1);
  args.heads = options_.num_heads;
  args.head_size = q.shape(4) / options_.num_heads;
  args.rows = {q.shape(2), options_.window_height, options_.border_height};
  args.columns = {q.shape(3), options_.window_width, options_.border_width};
  args.q = cell_rows(q);
  args.k = cell_rows(k);
  args.v = cell_rows(inputs[2]);
  size_t next = 4;
  if (present_.q_norm) args.q_norm = inputs[next++].data<float>();
  if (present_.k_norm) args.k_norm = inputs[next++].data<float>();
  args.rotated = present_.rope;
  if (present_.rope) {
    for (cpu::AngleRows* table : {&args.q_time, &args.k_time, &args.height, &args.width})
      *table = angle_rows(inputs[next++]);
  }
  args.norm_eps = options_.norm_eps;
  args.scale = options_.scale;
  args.out = outputs[0].data<char>();
  args.out_type = cpu::float_type(q.dtype());
  const auto& kernel = cpu::neighborhood_attention_kernel();
  const auto& loops = cpu::neighborhood_loops(kernel, args.q.type, args.head_size);
  const cpu::NeighborhoodPlan plan(args, key_frames.shape(1), cpu::num_threads(), kernel, loops);
  const auto scratch = evaluation.scratch(plan.layout.bytes());
  evaluation.dispatch([args, plan, scratch, &loops, frames = key_frames.data<int32_t>()]() noexcept {
    cpu::NeighborhoodSchedule(args, plan, scratch, loops, frames).run();
  });
}

}  // namespace ltx2rt
