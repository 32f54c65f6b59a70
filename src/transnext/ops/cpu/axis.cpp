// How queries and keys of an axis read the bias table; docs/position_bias.md derives it.
#include "kernels.h"

namespace transnext {
namespace {

// Two neighbours of each of `to` positions among `from`, as in bilinear resizing with align_corners=False.
void blend(int64_t from, int64_t to, std::vector<int32_t>& first, std::vector<int32_t>& second,
           std::vector<float>& share) {
  for (int64_t i = 0; i < to; ++i) {
    double place = (i + 0.5) * (static_cast<double>(from) / to) - 0.5;
    place = place < 0 ? 0 : place;
    const int64_t left = static_cast<int64_t>(place) < from - 1 ? static_cast<int64_t>(place) : from - 1;
    first.push_back(static_cast<int32_t>(left));
    second.push_back(static_cast<int32_t>(left + 1 < from ? left + 1 : from - 1));
    share.push_back(static_cast<float>(place - left));
  }
}

}  // namespace

Axis make_axis(int64_t queries, int64_t keys, int64_t trained_queries, int64_t trained_keys) {
  Axis axis;
  axis.resized = queries != trained_queries || keys != trained_keys;
  const int64_t H = trained_queries, P = trained_keys;
  if (H % P == 0) {
    const int64_t width = H / P;
    axis.step = 1;
    axis.entries = 2 * H - width;
    for (int64_t p = 0; p < P; ++p) axis.key_offset.push_back(static_cast<int32_t>(H - width - p * width));
  } else {
    axis.step = 2;
    axis.entries = 4 * H - 3;
    for (int64_t p = 0; p < P; ++p) {
      const int64_t start = p * H / P, end = ((p + 1) * H + P - 1) / P;
      axis.key_offset.push_back(static_cast<int32_t>(2 * (H - 1) - (start + end - 1)));
    }
  }
  blend(H, queries, axis.query_first, axis.query_second, axis.query_share);
  blend(P, keys, axis.key_first, axis.key_second, axis.key_share);
  return axis;
}

}  // namespace transnext
