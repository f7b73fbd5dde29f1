#include <features.h>
#include <isa-l.h>
