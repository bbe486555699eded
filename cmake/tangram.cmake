# The few rules that every folder's CMakeLists.txt uses.

# tangram_library(NAME SOURCES... [DEPS targets...] [PRIVATE_DEPS targets...])
# One static library for a folder of src/: target tangram_NAME. Sources may be left out: header only.
function(tangram_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;PRIVATE_DEPS" ${ARGN})
  if(ARG_SOURCES)
    add_library(tangram_${name} STATIC ${ARG_SOURCES})
    target_include_directories(tangram_${name} PUBLIC ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(tangram_${name} PUBLIC ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS} tangram_warnings)
  else()
    add_library(tangram_${name} INTERFACE)
    target_include_directories(tangram_${name} INTERFACE ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(tangram_${name} INTERFACE ${ARG_DEPS})
  endif()
endfunction()

# tangram_test(NAME SOURCES... DEPS... [LABELS...] [ARGS...])
# A GoogleTest program, run by ctest as one test (its cases share a start-up). Labels: unit, ops, e2e;
# "concurrent" marks what also runs under ThreadSanitizer.
function(tangram_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS;LABELS;ARGS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_include_directories(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests)
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} tangram_warnings GTest::gtest GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE TANGRAM_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  add_test(NAME ${name} COMMAND ${name} ${ARG_ARGS})
  set_tests_properties(${name} PROPERTIES LABELS "${ARG_LABELS}" TIMEOUT 900)
endfunction()
