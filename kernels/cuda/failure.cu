// failure.cu: what a CUDA error means to the caller, and the device's first failure, which sticks.
#include <stdio.h>

#include "device.cuh"

// Four classes. Lost is the default: an error that is not known here may have left the context unusable, and a process that is started
// again is the cure for that.
int32_t cuda_status(cudaError_t error) {
  switch (error) {
  case cudaSuccess: return INFERNO_OK;

  case cudaErrorMemoryAllocation: return INFERNO_OUT_OF_MEMORY;

  // A call that a correct caller does not make; the context goes on.
  case cudaErrorInvalidValue:
  case cudaErrorInvalidConfiguration:
  case cudaErrorInvalidSymbol:
  case cudaErrorInvalidDevicePointer:
  case cudaErrorInvalidMemcpyDirection:
  case cudaErrorInvalidResourceHandle:
  case cudaErrorIllegalState:
  case cudaErrorSymbolNotFound:
  case cudaErrorLaunchOutOfResources:
  case cudaErrorCooperativeLaunchTooLarge:
  case cudaErrorInvalidClusterSize:
  case cudaErrorHostMemoryAlreadyRegistered:
  case cudaErrorHostMemoryNotRegistered:
  case cudaErrorNotPermitted:
  case cudaErrorNotSupported:
  case cudaErrorStreamCaptureUnsupported:
  case cudaErrorStreamCaptureInvalidated:
  case cudaErrorStreamCaptureMerge:
  case cudaErrorStreamCaptureUnmatched:
  case cudaErrorStreamCaptureUnjoined:
  case cudaErrorStreamCaptureIsolation:
  case cudaErrorStreamCaptureImplicit:
  case cudaErrorCapturedEvent:
  case cudaErrorStreamCaptureWrongThread:
  case cudaErrorGraphExecUpdateFailure: return INFERNO_BAD_ARGUMENT;

  // No card that can be used: none, held by others, or a driver, library or kernel image that does not fit.
  case cudaErrorNoDevice:
  case cudaErrorInvalidDevice:
  case cudaErrorDeviceNotLicensed:
  case cudaErrorDevicesUnavailable:
  case cudaErrorDeviceAlreadyInUse:
  case cudaErrorDeviceUninitialized:
  case cudaErrorIncompatibleDriverContext:
  case cudaErrorInitializationError:
  case cudaErrorInsufficientDriver:
  case cudaErrorCallRequiresNewerDriver:
  case cudaErrorSystemNotReady:
  case cudaErrorSystemDriverMismatch:
  case cudaErrorCompatNotSupportedOnDevice:
  case cudaErrorMpsConnectionFailed:
  case cudaErrorMpsServerNotReady:
  case cudaErrorMpsMaxClientsReached:
  case cudaErrorMpsMaxConnectionsReached:
  case cudaErrorStubLibrary:
  case cudaErrorStartupFailure:
  case cudaErrorSharedObjectSymbolNotFound:
  case cudaErrorSharedObjectInitFailed:
  case cudaErrorNoKernelImageForDevice:
  case cudaErrorInvalidKernelImage:
  case cudaErrorInvalidPtx:
  case cudaErrorUnsupportedPtxVersion:
  case cudaErrorJitCompilerNotFound:
  case cudaErrorJitCompilationDisabled:
  case cudaErrorInvalidDeviceFunction: return INFERNO_UNAVAILABLE;

  // The context is gone: a kernel went wrong, or the card, its memory or its links did.
  case cudaErrorIllegalAddress:
  case cudaErrorMisalignedAddress:
  case cudaErrorInvalidAddressSpace:
  case cudaErrorInvalidPc:
  case cudaErrorIllegalInstruction:
  case cudaErrorHardwareStackError:
  case cudaErrorAssert:
  case cudaErrorLaunchFailure:
  case cudaErrorLaunchTimeout:
  case cudaErrorTensorMemoryLeak:
  case cudaErrorECCUncorrectable:
  case cudaErrorNvlinkUncorrectable:
  case cudaErrorContained:
  case cudaErrorExternalDevice:
  case cudaErrorContextIsDestroyed:
  case cudaErrorCudartUnloading:
  case cudaErrorMpsRpcFailure:
  case cudaErrorMpsClientTerminated:
  case cudaErrorUnknown:
  default: return INFERNO_DEVICE_LOST;
  }
}

void cuda_fail(inferno_device *dev, int32_t status, const char *what) {
  if (dev->status) return;
  dev->status = status;
  snprintf(dev->reason, sizeof dev->reason, "%s", what);
}

void cuda_fail(inferno_device *dev, cudaError_t error, const char *what) {
  if (dev->status) return;
  dev->status = cuda_status(error);
  snprintf(dev->reason, sizeof dev->reason, "%s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}
