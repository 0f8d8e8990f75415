# Given to CMake as a toolchain file: makes "C++14", which Horovod asks for, compile as C++17, which PyTorch asks for.
# The project include runs this file again after the compiler is known, when CMake has set its own values.
set(CMAKE_PROJECT_INCLUDE "${CMAKE_CURRENT_LIST_FILE}")
set(CMAKE_CXX14_STANDARD_COMPILE_OPTION "-std=c++17")
set(CMAKE_CXX14_EXTENSION_COMPILE_OPTION "-std=gnu++17")
