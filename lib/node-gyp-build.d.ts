declare module 'node-gyp-build' {
  function load(directory: string): unknown
  namespace load {
    /** Path of the .node file for this platform. Throws when there is none. */
    function resolve(directory: string): string
  }
  export = load
}
