// The command in a few files: loading two hundred small ones takes longer than starting a machine. Bundled from what tsc
// wrote, so that both have passed the same compiler; in a folder at the same depth, because some modules find the addon
// and the worker relative to themselves.
export default {
  input: { main: 'dist/cli/main.js', worker: 'dist/vcpu/worker.js' },
  platform: 'node',
  // Only sources that run as they are generate the tcg engine's interpreter; the build has it in a file.
  external: [/\/interp\/generate\.js$/, /\/table\/index\.js$/],
  output: {
    dir: 'dist/bin',
    format: 'esm',
    cleanDir: true,
    entryFileNames: '[name].js',
    chunkFileNames: '[name]-[hash].js',
    sourcemap: true,
  },
};
