// Stand-in for the one MLX header that names internals of Apple's compiler; msl/math.h has the same functions.
#pragma once
