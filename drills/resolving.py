"""What only the service file knows, given to the injectors that need it."""

from ..injectors.base import Injector
from ..injectors.caches import CacheWipe
from ..injectors.load import LoadFault, Served
from ..injectors.model_files import ModelFault
from .language.documents import profile
from .measure.prober import joined
from .service import Service


def resolve(injector: Injector, service: Service) -> Injector:
    """The injector with what only the service file knows: where the model lies and how it is held, where users ask."""
    if isinstance(injector, LoadFault):
        return injector.with_service(served(service))
    if isinstance(injector, CacheWipe) and service.model is not None:
        return injector.with_model(str(service.folder / service.model.path))
    if isinstance(injector, ModelFault) and service.model is not None:
        return injector.with_model(str(service.folder / service.model.path), service.model.load)
    return injector


def served(service: Service) -> Served:
    """Where users ask, and what the engine's profile calls requests under way."""
    metrics = profile(service.engine).metrics if service.engine else None
    endpoint = service.endpoint
    asked = Served(joined(endpoint.url, "/v1/completions") if endpoint.url else None, endpoint.protocol, endpoint.model)
    if metrics is None or metrics.port is not None:
        return asked
    return asked._replace(metrics_path=metrics.path, under_way=(*metrics.running, *metrics.queued), asked=metrics.asked)
