"""Which installed method does what the coordinator asks, and whether all that it needs is here."""

from polyclinic.config.schemas import JobConfig
from polyclinic.errors import ConfigError, MethodMissing, PluginMismatch
from polyclinic.federation.hospital import HOSPITAL, DescribingHospital, Hospital
from polyclinic.federation.jobs import needed_plugins
from polyclinic.federation.method import methods
from polyclinic.federation.records import Order
from polyclinic.system.plugins import plugins


def hospital_of(order: Order) -> Hospital:
    """Find the hospital's part of the method that an order names; the plain one if it names none.

    Raises:
        MethodMissing: It is not installed here.
        ConfigError: It does not protect patients as the order promises.
    """
    if not order.method and order.patients is None:
        return HOSPITAL
    if order.method not in methods():
        others = [f"{package} {version}" for package, version in order.plugins.items()]
        raise MethodMissing(order.method, ", ".join(others))
    method = methods()[order.method]
    if order.patients is not None and not method.patients:
        raise ConfigError(
            f"The method {order.method} has no training that protects each patient, which the run "
            "promises: choose strategy=averaging/fedavg, or privacy=none."
        )
    found: Hospital = method.load("hospital")
    return found


def describing_hospital_of(order: Order) -> DescribingHospital:
    """Find the same of a method whose hospitals may describe themselves.

    Raises:
        MethodMissing: It is not installed here.
        ConfigError: The method asks for no descriptions.
    """
    found = hospital_of(order)
    if not isinstance(found, DescribingHospital):
        raise ConfigError(f"The method {order.method or 'of this run'} asks for no descriptions.")
    return found


def check_packages(order: Order) -> None:
    """Refuse work whose method, or one of whose packages, is not installed here as it is there.

    Raises:
        MethodMissing: The method is not installed.
        PluginMismatch: A package is missing, or has another version.
    """
    hospital_of(order)
    here = plugins()
    for package, version in order.plugins.items():
        if here.get(package) != version:
            raise PluginMismatch(package, here.get(package), version)


def check_job_packages(order: Order, job: JobConfig) -> None:
    """Refuse a job that takes something of a package here that the coordinator does without.

    Raises:
        PluginMismatch: The order does not name the package.
    """
    for package, version in needed_plugins(job, order.names, order.method).items():
        if package not in order.plugins:
            raise PluginMismatch(package, version, None)
