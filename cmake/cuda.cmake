# Finds a CUDA 13 toolkit and enables the language; sets TANGRAM_HAS_CUDA. Looks at TANGRAM_CUDA_ROOT, at
# .cache/cuda (scripts/setup --cuda), then where NVIDIA's packages install. An older toolkit there is no reason for a
# build on the CPU to fail: it is named, and left alone.
set(TANGRAM_CUDA AUTO CACHE STRING "Build the CUDA backend: AUTO (if a toolkit is found), ON, OFF")
set(TANGRAM_CUDA_ROOT "" CACHE PATH "Folder of the CUDA toolkit (with bin/nvcc)")
# sm_80 with PTX for every GPU since Ampere; sm_90a for what is tuned for Hopper.
set(TANGRAM_CUDA_ARCHITECTURES "80;90a-real" CACHE STRING "Architectures of the portable kernels")
set(TANGRAM_HAS_CUDA OFF)

if(NOT TANGRAM_CUDA STREQUAL "OFF")
  find_program(TANGRAM_NVCC nvcc
    PATHS ${TANGRAM_CUDA_ROOT}/bin ${PROJECT_SOURCE_DIR}/.cache/cuda/bin /usr/local/cuda/bin
    NO_DEFAULT_PATH)
  if(TANGRAM_NVCC)
    # Asked before the language is enabled, which an older compiler may already fail at.
    execute_process(COMMAND ${TANGRAM_NVCC} --version OUTPUT_VARIABLE nvcc_says ERROR_QUIET)
    string(REGEX MATCH "release ([0-9]+\\.[0-9]+)" nvcc_release "${nvcc_says}")
    if(NOT nvcc_release OR CMAKE_MATCH_1 VERSION_LESS 13.0)
      set(problem "CUDA 13.0 or newer is needed, scripts/setup --cuda brings it (${TANGRAM_NVCC} says '${nvcc_release}')")
    endif()
  else()
    set(problem "no CUDA toolkit found: run scripts/setup --cuda, or give -DTANGRAM_CUDA_ROOT")
  endif()
  if(NOT DEFINED problem)
    set(CMAKE_CUDA_COMPILER ${TANGRAM_NVCC})
    set(CMAKE_CUDA_ARCHITECTURES ${TANGRAM_CUDA_ARCHITECTURES})
    set(CMAKE_CUDA_HOST_COMPILER ${CMAKE_CXX_COMPILER})
    enable_language(CUDA)
    # CMake 3.25 does not know them when the host compiler's version is not to be had from nvcc.
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
    set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
    if(CCACHE_PROGRAM)
      set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
    endif()
    # (FindCUDAToolkit of CMake 3.25 fails on CUDA 13, which has no libnvToolsExt.)
    get_filename_component(cuda_home ${TANGRAM_NVCC} DIRECTORY)
    get_filename_component(cuda_home ${cuda_home} DIRECTORY)
    add_library(tangram_cudart INTERFACE)
    target_include_directories(tangram_cudart SYSTEM INTERFACE ${cuda_home}/include)
    target_link_directories(tangram_cudart INTERFACE ${cuda_home}/lib64)
    target_link_libraries(tangram_cudart INTERFACE cudart_static rt dl Threads::Threads)
    # -lineinfo lets profilers and sanitizers name lines.
    add_library(tangram_cuda_flags INTERFACE)
    target_compile_options(tangram_cuda_flags INTERFACE
      $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo --expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra,-Wno-unused-parameter>)
    set(TANGRAM_HAS_CUDA ON)
  elseif(TANGRAM_CUDA STREQUAL "ON")
    unset(TANGRAM_NVCC CACHE)  # so that one that is installed later is found
    message(FATAL_ERROR "${problem}")
  elseif(TANGRAM_NVCC)
    unset(TANGRAM_NVCC CACHE)
    message(WARNING "no CUDA backend: ${problem}")
  endif()
endif()
message(STATUS "CUDA backend: ${TANGRAM_HAS_CUDA} ${TANGRAM_NVCC}")
