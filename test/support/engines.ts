/**
 * The engines that tests of what is the same on all of them run on: `describe.each(ENGINES)`. An engine that this host
 * lacks is left out, and global-setup.ts names the files that had wanted it.
 */
import type { EngineName } from '../../src/vcpu/engine.ts';
import { lacking } from './capabilities.ts';

/** Every engine this host can use; tcg needs nothing but Node. */
export const ENGINES: readonly EngineName[] = lacking('kvm') === undefined ? ['tcg', 'kvm'] : ['tcg'];
