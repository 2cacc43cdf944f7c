from runtime.model.activations import activation


@activation("relu2")
def squared_relu(x):
    return x.relu().square()
