# cmake -DSOURCE=FOLDER -DOUT=FILE -P write_commit.cmake: writes the source that says which commit is built.
execute_process(COMMAND git -C ${SOURCE} rev-parse --short=12 HEAD
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
if(failed)
  set(commit unknown)
endif()
file(WRITE ${OUT} "#include \"version.h\"

namespace tangram::apps {

const char* Commit() { return \"${commit}\"; }

}  // namespace tangram::apps
")
