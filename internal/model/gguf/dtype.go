package gguf

import (
	"fmt"

	"github.com/inferno-serve/inferno/internal/device"
)

// The numbers are ggml's: https://github.com/ggml-org/ggml/blob/master/include/ggml.h, enum ggml_type.
var dtypes = map[uint32]device.DType{
	0: device.F32, 1: device.F16, 2: device.Q4_0, 3: device.Q4_1, 8: device.Q8_0, 30: device.BF16,
}

// otherTypes are those that files have and this server does not compute with.
var otherTypes = map[uint32]string{
	4: "Q4_2 (removed)", 5: "Q4_3 (removed)", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K",
	15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8",
	25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 31: "Q4_0_4_4 (removed)", 32: "Q4_0_4_8 (removed)", 33: "Q4_0_8_8 (removed)",
	34: "TQ1_0", 35: "TQ2_0", 36: "IQ4_NL_4_4 (removed)", 37: "IQ4_NL_4_8 (removed)", 38: "IQ4_NL_8_8 (removed)", 39: "MXFP4",
}

func dtypeOf(number uint32) (device.DType, error) {
	if t, ok := dtypes[number]; ok {
		return t, nil
	}
	const supported = "F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are"
	if name, ok := otherTypes[number]; ok {
		return 0, fmt.Errorf("type %s is not supported; %s", name, supported)
	}
	return 0, fmt.Errorf("unknown type %d; %s supported", number, supported)
}
