"""Any valid workload, for Hypothesis."""

from hypothesis import strategies as st

from k8s.gpus import GPUS, counts
from k8s.workload import Autoscale, Engine, Nodes, Route, ServiceAccount, Variant, Workload

names = st.from_regex(r"[a-z]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
tricky = st.sampled_from(
    ["yes", "n", "null", "~", "1e3", "0x1f", "12:30", "a: b", "# x", "'\"", "a\nb", "{{ x }}", "$(A)", "$$"]
)
label_values = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,20}[A-Za-z0-9])?", fullmatch=True)
env_names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,10}", fullmatch=True)
quantities = st.from_regex(r"[1-9][0-9]{0,3}(Mi|Gi|m)?", fullmatch=True)
images = st.from_regex(r"[a-z0-9./:@-]{1,30}", fullmatch=True) | tricky
hosts = st.from_regex(r"[a-z]{1,8}\.example\.com", fullmatch=True)
labels = st.dictionaries(names, label_values | tricky.filter(str.isalnum), max_size=3)
secret_names = st.lists(st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True), unique=True, max_size=3)

engines = st.builds(
    Engine,
    how=st.sampled_from(["pull", "init", "claim", "volume"]),
    source=names,
    path=st.sampled_from(["", "a/b"]),
    registry_secret=st.none() | names,
)
autoscales = st.builds(
    lambda least, more, **rest: Autoscale(least=least, most=least + more, **rest),
    least=st.integers(1, 4),
    more=st.integers(0, 50),
    waiting=st.integers(1, 100),
    scaler=st.sampled_from(["hpa", "keda"]),
    metrics=st.sampled_from(["gmp", "prometheus"]),
    server=st.just("http://prometheus:9090"),
    auth=st.none() | names,
)
routes = st.builds(
    Route,
    kind=st.sampled_from(["gateway", "ingress"]),
    parent=names,
    host=st.none() | hosts,
    tls_secret=st.none() | names,
)
accounts = st.builds(
    ServiceAccount, name=names, create=st.booleans(), annotations=st.dictionaries(names, texts, max_size=2)
)


@st.composite
def nodes(draw: st.DrawFn) -> Nodes:
    selector = draw(st.dictionaries(names, label_values, max_size=2))
    if draw(st.booleans()):
        return Nodes(labels=draw(st.sampled_from(["any", "gfd"])), selector=selector)
    how = draw(st.sampled_from(["spot", "flex_start", "neither"]))
    return Nodes(
        spot=how == "spot",
        flex_start=how == "flex_start",
        compute_class=draw(st.none() | names),
        driver=draw(st.none() | st.sampled_from(["default", "latest"])),
        selector=selector,
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    gpu = draw(st.none() | st.sampled_from(GPUS))
    on_gke = gpu is None or gpu.gke_label is not None
    several = draw(st.lists(st.sampled_from([each for each in GPUS if each.gke_label]), unique=True, max_size=3))
    variants = tuple(
        Variant(gpu=each, gpu_count=draw(st.sampled_from(counts(each))), image=draw(st.none() | images))
        for each in several
    )
    env = draw(st.dictionaries(env_names, texts | tricky, max_size=4))
    secret_env = draw(st.dictionaries(env_names, st.tuples(names, names), max_size=2))
    return Workload(
        name=draw(names),
        image=draw(images),
        namespace=draw(st.none() | names),
        create_namespace=draw(st.booleans()),
        version=draw(st.none() | label_values),
        replicas=draw(st.integers(0, 100)),
        gpu=gpu,
        gpu_count=draw(st.sampled_from(counts(gpu))) if gpu else 0,
        variants=variants,
        nodes=draw(nodes()) if on_gke else Nodes(),
        group_size=draw(st.sampled_from([1, 1, 1, 2])),
        cpu=draw(quantities),
        memory=draw(quantities),
        ephemeral_storage=draw(quantities),
        engine=draw(st.none() | engines),
        cache_claim=draw(st.none() | names),
        port=draw(st.integers(1, 65535)),
        env=env,
        secrets=tuple(draw(secret_names)),
        secret_env={name: value for name, value in secret_env.items() if name not in env},
        image_pull_secrets=tuple(draw(st.lists(names, max_size=2, unique=True))),
        service_account=draw(st.none() | accounts),
        priority_class=draw(st.none() | names),
        labels=draw(labels),
        load_seconds=draw(st.integers(1, 7200)),
        drain_seconds=draw(st.integers(0, 60)),
        grace_seconds=draw(st.integers(61, 3600)),
        spare_gpu=draw(st.booleans()),
        disruption_budget=draw(st.booleans()),
        autoscale=draw(st.none() | autoscales),
        monitoring=draw(st.sampled_from([None, "gmp", "prometheus"])),
        allowed_namespaces=draw(st.none() | st.lists(names, max_size=2).map(tuple)),
        route=draw(st.none() | routes),
    )
