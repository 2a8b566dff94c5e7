/** The KVM UAPI: constants, ioctl numbers and struct layouts. */
export * from './capabilities.ts';
export * from './constants.ts';
export * from './ioctl.ts';
export * from './run.ts';
export type { Codec, ListStruct, Struct } from './struct.ts';
export * from './vcpu.ts';
export * from './vm.ts';
