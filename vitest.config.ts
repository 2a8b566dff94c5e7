import { defineConfig } from 'vitest/config';
import { filesNeeding, lacking } from './test/support/capabilities.ts';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    exclude: lacking('kvm') === undefined ? [] : filesNeeding('kvm'),
    globalSetup: ['test/support/global-setup.ts'],
    setupFiles: ['test/support/count-machines.ts'],
    // vCPU threads are worker threads; tests therefore live in processes, not in worker threads themselves.
    pool: 'forks',
    maxWorkers: 2,
    testTimeout: 30_000,
    hookTimeout: 60_000,
  },
});
