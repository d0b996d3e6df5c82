// The Python module tritium.kernels._native.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "table.h"
#include "views.h"

NB_MODULE(_native, m) {
  // Plans and caches that are still referenced when the interpreter ends are no mistake of anybody's.
  nanobind::set_leak_warnings(false);
  m.doc() = "Tritium's native kernels; the modules of tritium.kernels are their checked face.";
  m.def("isa", [] { return std::string(tritium::table().name); });
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const auto* const* one = tritium::available_tables(); *one != nullptr; ++one)
      names.emplace_back((*one)->name);
    return names;
  });
  m.def("set_isa", &tritium::select_table, nanobind::arg("name"));
  tritium::bind_packing(m);
  tritium::bind_descend(m);
  tritium::bind_gram(m);
  tritium::bind_quantize(m);
  tritium::bind_ternary(m);
  tritium::bind_coded(m);
  tritium::bind_dense(m);
  tritium::bind_attention(m);
  tritium::bind_sampling(m);
  tritium::bind_plan(m);
  tritium::bind_probe(m);
}
