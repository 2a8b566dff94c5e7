{
  "targets": [
    {
      "target_name": "tsvisor",
      "conditions": [
        ["OS=='linux' and target_arch=='x64'", {
          "sources": [
            "native/addon.cc",
            "native/file.cc",
            "native/kvm.cc",
            "native/memory.cc",
            "native/thread.cc",
            "native/wake.cc"
          ],
          "include_dirs": ["<!@(node -p \"require('node-addon-api').include\")"],
          "defines": ["NAPI_VERSION=8", "NAPI_DISABLE_CPP_EXCEPTIONS", "NODE_ADDON_API_DISABLE_DEPRECATED"],
          "cflags_cc": ["-std=c++17", "-Wall", "-Wextra", "-fvisibility=hidden"]
        }, {
          "type": "none"
        }]
      ]
    }
  ]
}
