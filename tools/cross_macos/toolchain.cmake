# Builds for macOS on Apple silicon from Linux, with the compiler of the ziglang package. Set by build.py: CROSS_TOOLS,
# a folder with the compiler's front (c++), ar and ranlib, and CROSS_SDK, stand-ins for two headers of Apple's SDK.
set(CMAKE_SYSTEM_NAME Darwin)
set(CMAKE_SYSTEM_PROCESSOR arm64)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES CROSS_TOOLS CROSS_SDK)
set(CMAKE_CXX_COMPILER "${CROSS_TOOLS}/c++")
set(CMAKE_C_COMPILER "${CROSS_TOOLS}/c++")
set(CMAKE_AR "${CROSS_TOOLS}/ar" CACHE FILEPATH "")
set(CMAKE_RANLIB "${CROSS_TOOLS}/ranlib" CACHE FILEPATH "")
# Only called to change run paths on installation, and the install step sets none that differ.
set(CMAKE_INSTALL_NAME_TOOL "${CROSS_TOOLS}/install_name_tool" CACHE FILEPATH "")
set(CMAKE_OSX_SYSROOT "" CACHE STRING "")
set(CMAKE_OSX_DEPLOYMENT_TARGET "" CACHE STRING "") # part of the compiler's target
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
set(CMAKE_CXX_FLAGS_INIT "-isystem ${CROSS_SDK}")
