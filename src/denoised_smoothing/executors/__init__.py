"""Where noisy copies are counted: threads of this process, on one device or several, or Ray."""

from __future__ import annotations

from denoised_smoothing.executors.cluster import ClusterExecution, RayCluster, worker_device
from denoised_smoothing.executors.local import LocalExecution, choose_devices

__all__ = ["ClusterExecution", "LocalExecution", "RayCluster", "choose_devices", "worker_device"]
