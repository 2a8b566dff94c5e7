/** CPUID tables: models, features, topology and the builder. */
export { type BuiltCpuid, buildCpuid, type CpuidOptions } from './build.ts';
export {
  CPU_FEATURES,
  type CpuFeature,
  featureNamed,
  featureNames,
  findFeature,
  hasFeature,
} from './features.ts';
export { CPU_MODELS, type CpuModelName, type CpuModelSpec, MODEL_FEATURES, parseCpuModel } from './model.ts';
export { apicIdOf, type CpuTopology, topologyOf } from './topology.ts';
