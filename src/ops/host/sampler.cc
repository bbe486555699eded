#include "ops/host/sampler.h"
