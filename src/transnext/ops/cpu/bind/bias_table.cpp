// The table of the position bias and its gradient.
#include "tensors.h"

using namespace transnext;

namespace {

// The tensors of a bias table as floats, and what the kernels make of them.
struct BiasTableInputs {
  std::vector<float> rows, columns, row_weight, column_weight, bias, out_weight, out_bias;
  BiasTable table;

  BiasTableInputs(const Tensor& row_coordinates, const Tensor& column_coordinates, const Tensor& fc1_weight,
                  const Tensor& fc1_bias, const Tensor& fc2_weight, const Tensor& fc2_bias) {
    STD_TORCH_CHECK(
        row_coordinates.sizes().size() == 1 && column_coordinates.sizes().size() == 1 && fc2_weight.sizes().size() == 2,
        "coordinates must have one axis, fc2_weight two");
    const int64_t M = fc2_weight.size(0), hidden = fc2_weight.size(1), U = row_coordinates.size(0),
                  V = column_coordinates.size(0);
    check(row_coordinates, "row_coordinates", {U});
    check(column_coordinates, "column_coordinates", {V});
    check(fc1_weight, "fc1_weight", {hidden, 2});
    check(fc1_bias, "fc1_bias", {hidden});
    check(fc2_weight, "fc2_weight", {M, hidden});
    check(fc2_bias, "fc2_bias", {M});
    rows = floats_of(row_coordinates), columns = floats_of(column_coordinates);
    bias = floats_of(fc1_bias), out_weight = floats_of(fc2_weight), out_bias = floats_of(fc2_bias);
    const std::vector<float> in = floats_of(fc1_weight);
    row_weight.resize(hidden), column_weight.resize(hidden);
    for (int64_t k = 0; k < hidden; ++k) row_weight[k] = in[2 * k], column_weight[k] = in[2 * k + 1];
    table = {M,
             hidden,
             U,
             V,
             rows.data(),
             columns.data(),
             row_weight.data(),
             column_weight.data(),
             bias.data(),
             out_weight.data(),
             out_bias.data(),
             nullptr};
  }
};

Tensor position_bias_table(Tensor row_coordinates, Tensor column_coordinates, Tensor fc1_weight, Tensor fc1_bias,
                           Tensor fc2_weight, Tensor fc2_bias) {
  BiasTableInputs inputs(row_coordinates, column_coordinates, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  BiasTable& t = inputs.table;
  Tensor out = torch::stable::new_empty(row_coordinates, {t.M, t.rows, t.columns}, ScalarType::Float);
  if (out.numel() == 0) return out;
  t.out = static_cast<float*>(out.mutable_data_ptr());
  in_parallel(t.rows, 1, [&](const Kernels& isa, int64_t begin, int64_t end) { isa.bias_table(t, begin, end); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> position_bias_table_backward(Tensor grad, Tensor row_coordinates,
                                                                        Tensor column_coordinates, Tensor fc1_weight,
                                                                        Tensor fc1_bias, Tensor fc2_weight,
                                                                        Tensor fc2_bias) {
  BiasTableInputs inputs(row_coordinates, column_coordinates, fc1_weight, fc1_bias, fc2_weight, fc2_bias);
  const BiasTable& t = inputs.table;
  check_like(grad, "grad", {t.M, t.rows, t.columns}, ScalarType::Float);
  const std::vector<float> gradient = floats_of(grad);
  std::vector<float> row_weight(t.hidden), column_weight(t.hidden), bias(t.hidden), out_weight(t.M * t.hidden),
      out_bias(t.M), in(2 * t.hidden);
  const BiasTableGradient g{gradient.data(), row_weight.data(), column_weight.data(), bias.data(), out_weight.data()};
  const Kernels& isa = kernels();
  const int64_t lanes = isa.panel / 2, blocks = (t.hidden + lanes - 1) / lanes;
  torch::stable::parallel_for(0, blocks, 1,
                              [&](int64_t begin, int64_t end) { isa.bias_table_backward(t, g, begin, end); });
  for (int64_t k = 0; k < t.hidden; ++k) in[2 * k] = row_weight[k], in[2 * k + 1] = column_weight[k];
  for (int64_t m = 0; m < t.M; ++m) {
    double total = 0;
    for (int64_t i = 0; i < t.rows * t.columns; ++i) total += gradient[m * t.rows * t.columns + i];
    out_bias[m] = static_cast<float>(total);
  }
  return {tensor_of(in, fc1_weight), tensor_of(bias, fc1_bias), tensor_of(out_weight, fc2_weight),
          tensor_of(out_bias, fc2_bias)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(transnext, CPU, m) {
  m.impl("position_bias_table", TORCH_BOX(&position_bias_table));
  m.impl("position_bias_table_backward", TORCH_BOX(&position_bias_table_backward));
}
