# What the scripts of this folder share. Source it from the repository's root.

# One line a stage, with the seconds since the script began.
stage() { printf '\033[1m[%4ds] %s\033[0m\n' "$SECONDS" "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# version_at_least HAVE WANT
version_at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

# configure PRESET [OPTION...]
configure() {
  local build=build/$1
  mkdir -p build
  stage "Configure ($*)"
  cmake --preset "$@" >"$build.log" 2>&1 || { cat "$build.log"; die "cmake --preset $* failed"; }
}

# configure_and_build PRESET [TARGET...]
configure_and_build() {
  local preset=$1 build=build/$1
  shift
  [ -f "$build/build.ninja" ] || configure "$preset"
  stage "Build ($preset)"
  cmake --build --preset "$preset" --parallel "${JOBS:-$(nproc)}" ${1:+--target "$@"}
}
